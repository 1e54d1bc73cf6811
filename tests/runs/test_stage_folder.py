"""Stage folders: a key is all that a result depends on, and the word on why it is made again."""

import pytest

from zephyr.errors import CheckpointError
from zephyr.runs.stage_folder import StageKey, finished, flatten, publish_stage, why_again, work_folder


def key(**settings):
    return StageKey("sft", {"sft.lr": 1.0, **settings}, {"synth": "abc"})


def test_settings_are_flattened_to_dotted_keys():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}, "x") == {"x.a": 1, "x.b.c": [2], "x.b.d.e": None}


def test_a_key_depends_on_settings_and_inputs_and_not_on_their_order():
    assert key(a=1, b=2).digest == key(b=2, a=1).digest
    assert key(a=1).digest != key(a=2).digest
    assert key().digest != StageKey("sft", key().settings, {"synth": "abd"}).digest


def test_a_stage_is_worked_in_beside_its_place_and_then_published(tmp_path):
    assert finished(tmp_path, key()) is None
    folder = work_folder(tmp_path, key())
    (folder / "model").mkdir()
    assert work_folder(tmp_path, key()) == folder
    assert finished(tmp_path, key()) is None
    record = publish_stage(tmp_path, key(), seconds=1.234, facts={"rows": 3})
    assert not folder.exists()
    assert finished(tmp_path, key()) == record
    assert (tmp_path / key().folder_name / "model").is_dir()


def test_why_a_stage_is_made_again_is_said(tmp_path):
    assert why_again(tmp_path, key()) is None
    publish_stage(tmp_path, key(beta=0.1), seconds=0.0, facts={})
    assert why_again(tmp_path, key(beta=0.5)) == "beta was 0.1, is 0.5"
    assert why_again(tmp_path, key()) == "beta (was 0.1) no longer counts"
    assert why_again(tmp_path, key(beta=0.1, gamma=[2])) == "gamma is new: [2]"
    other = StageKey("sft", key(beta=0.1).settings, {"synth": "new"})
    assert why_again(tmp_path, other) == "synth is new"


def test_a_broken_record_names_its_file(tmp_path):
    publish_stage(tmp_path, key(), seconds=0.0, facts={})
    (tmp_path / key().folder_name / "stage.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"stage\.json: cannot be read"):
        finished(tmp_path, key())
