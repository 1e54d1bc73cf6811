"""The reader of a run folder: what is there, what is not, and what is damaged."""

import json

import pytest

from tests.deliver.small_run import write_run
from zephyr.errors import DataError
from zephyr.runs.layout import measurement_file
from zephyr.runs.reader import model_name, model_title, read_run, seconds_taken


def test_the_newest_folder_of_a_stage_counts(tmp_path):
    for name, finished, seconds in (("sft-a", "2026-01-01", 5.0), ("sft-b", "2026-01-02", 7.0)):
        (tmp_path / name).mkdir()
        record = {"key": {"stage": "sft"}, "finished": finished, "seconds": seconds}
        (tmp_path / name / "stage.json").write_text(json.dumps(record))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "stage.json").write_text("{")
    assert seconds_taken(tmp_path, ("sft", "align")) == {"sft": 7.0}


def test_a_run_is_read_as_far_as_it_has_come(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert list(run.stages) == ["feedback", "align", "evaluate"]  # deliver is planned and not finished
    assert (run.name, run.model_revision) == ("small", "abc123")
    assert run.model_folder == tmp_path / "run" / "align-aaaaaaaaaa" / "model"
    assert [line["step"] for line in run.stages["align"].log()] == [2, 5, 10]
    assert run.stages["feedback"].log() == run.stages["feedback"].samples() == run.ledgers() == []
    assert run.stages["align"].train_tokens() == tmp_path / "run" / "align-aaaaaaaaaa" / "tokens" / "train"
    (found,) = run.stages["evaluate"].measurements("world", "align")
    assert run.relative(found) == f"evaluate-eeeeeeeeee/{measurement_file(0, 'world', 'align')}"


def test_a_damaged_log_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    log = folder / "align-aaaaaaaaaa" / "train" / "train_log.jsonl"
    log.write_text(log.read_text() + '{"step": 1')
    with pytest.raises(DataError, match=r"train_log\.jsonl: has a line that is not JSON"):
        read_run(folder).stages["align"].log()


def test_models_have_the_names_of_the_paper(tmp_path):
    assert [model_title(stage, "dpo") for stage in ("pretrain", "sft", "align")] == ["base", "dSFT", "dDPO"]
    assert model_title("align", "orpo") == "ORPO"
    assert model_name(tmp_path / "mine" / "sft-0123456789" / "model") == "mine"
    assert model_name(tmp_path / "mistral") == "mistral"
