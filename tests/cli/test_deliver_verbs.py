"""`zephyr card`, `zephyr card audit` and `zephyr report`: where they write, what they print, what they refuse."""

import json

import pytest

from tests.deliver.small_run import write_run
from zephyr.cli import main as cli
from zephyr.evaluation.results import Item, Result, write_result


def zephyr(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def mt_bench(tmp_path):
    """The result of an MT-Bench of the run's model, with three categories."""
    items = [Item("mt_bench", str(n), str(n), name, 5.0 + n) for n, name in enumerate(("writing", "math", "stem"))]
    scores = {
        "as_published": {"score": 7.3, "standard_error": 0.1, "low": 7.1, "high": 7.5, "n": 160, "label": "complete"},
        "writing": {"score": 9.0, "standard_error": 0.1, "low": 8.0, "high": 9.5, "n": 20, "label": "incomplete"},
    }
    model = "/elsewhere/run/align-aaaaaaaaaa/model"
    write_result(tmp_path / "mt", Result("mt_bench", model, {"judge": "mine"}, scores, items))
    return tmp_path / "mt"


def test_a_card_goes_into_the_model_folder(run, mt_bench, capsys):
    assert zephyr("card", run) == 0
    place = run / "align-aaaaaaaaaa" / "model" / "README.md"
    assert capsys.readouterr().err == f"-> {place}\n"
    alone = place.read_text()
    assert zephyr("card", run, "--results", mt_bench) == 0
    assert "| dDPO | mt_bench | as_published | 7.3 | 7.1 to 7.5, n = 160 | mt |" in place.read_text()
    assert "mt_bench" not in alone
    assert "| writing |" not in place.read_text()  # too many judgments are missing for a score


def test_a_card_of_no_run_is_refused(tmp_path, capsys):
    assert zephyr("card", tmp_path) == 2
    assert "has no run.lock.json; name the folder of a run" in capsys.readouterr().err
    assert zephyr("report", tmp_path / "nowhere") == 2
    assert "nowhere: there is no such folder; name the folder of a run" in capsys.readouterr().err


def test_an_audit_is_printed_and_machine_readable(run, tmp_path, capsys):
    assert zephyr("card", run, "-o", tmp_path / "CARD.md") == 0
    capsys.readouterr()
    assert zephyr("card", "audit", tmp_path / "CARD.md", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    wanted = ("beta", "steps_per_epoch", "examples_low", "examples_high", "accuracy_granularity")
    assert [found[name] for name in wanted] == [0.1, 5, 17, 20, 4]
    assert zephyr("card", "audit", tmp_path / "CARD.md", "--batch-size", 2) == 0
    assert "examples high           10" in capsys.readouterr().out


def test_an_audit_of_what_is_no_card_is_refused(tmp_path, capsys):
    assert zephyr("card", "audit", tmp_path / "none.md") == 2
    (tmp_path / "plain.md").write_text("no table")
    assert zephyr("card", "audit", tmp_path / "plain.md") == 2
    told = capsys.readouterr().err
    assert "cannot be read" in told
    assert "plain.md: holds no training table" in told


def test_a_report_sets_results_beside_published_ones(run, mt_bench, capsys):
    assert zephyr("report", run, "--results", mt_bench, "--published", "zephyr-7b-beta") == 0
    page = (run / "report.html").read_text()
    assert "agrees (dDPO, zephyr-7b-beta)" in page  # 7.3 against 7.34
    assert 'class="radar"' in page
    assert "mt_bench, published first: judge: gpt-4 against mine" in page
    capsys.readouterr()
    assert zephyr("report", run, "--published", "zephyr-7b-beta") == 2
    assert "needs results to compare with" in capsys.readouterr().err
