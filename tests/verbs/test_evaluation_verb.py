"""`zephyr eval`: scores from local files, without network, and going on after a kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluate.harness.small_data import small_data
from zephyr import cli
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer

TASKS = "arc_challenge,winogrande,gsm8k"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and data."""
    folder = tmp_path_factory.mktemp("place")
    small_data(folder / "data")
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), folder / "model")
    return folder


def words(place: Path, out: Path, *more: object) -> list[str]:
    given = ("eval", place / "model", "--data", place / "data", "--out", out, "--shots", 1, "--offline", *more)
    return [str(word) for word in given]


def answered(path: Path) -> int:
    if not path.exists():
        return 0
    file = sqlite3.connect(path)
    try:
        return int(file.execute("SELECT count(*) FROM finished").fetchone()[0])
    except sqlite3.OperationalError:  # the table is not there yet
        return 0
    finally:
        file.close()


def zephyr(arguments: list[str]) -> int:
    """The exit code of the command."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_scores_are_printed_written_and_not_measured_again(place: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert zephyr(words(place, tmp_path, "--tasks", TASKS)) == 0
    printed = capsys.readouterr().out
    assert "arc_challenge  1      off   acc_norm*" in printed
    assert "gsm8k: the leaderboard of 2023 stopped an answer at its first ':'" in printed
    told = json.loads((tmp_path / "evaluation.json").read_text())
    protocol = told["tasks"]["arc_challenge"]["protocol"]
    assert len(protocol["model_hash"]) == len(protocol["data_sha256"]) == 64
    assert (protocol["version"], protocol["num_fewshot"], protocol["dtype"]) == (1.0, 1, "float32")
    score = told["tasks"]["arc_challenge"]["scores"]["score"]
    assert score["low"] <= score["score"] <= score["high"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished request was asked again")

    monkeypatch.setattr("zephyr.evaluate.harness.language_model.score_continuations", refuse)
    monkeypatch.setattr("zephyr.evaluate.harness.generated.generate", refuse)
    assert zephyr(words(place, tmp_path, "--tasks", TASKS, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == told["tasks"]


def test_mistakes_show_before_a_model_is_loaded(place: Path, tmp_path: Path, capsys) -> None:
    nowhere = [word if word != str(place / "model") else str(tmp_path / "nowhere") for word in words(place, tmp_path)]
    assert zephyr([*nowhere, "--tasks", "arc_chalenge"]) == 2
    assert capsys.readouterr().err == (
        "error: --tasks: unknown task 'arc_chalenge'; did you mean 'arc_challenge'?; "
        "their list is printed by `lm_eval ls tasks`\n"
    )
    (tmp_path / "empty").mkdir()
    assert zephyr([*nowhere, "--tasks", "gsm8k", "--data", str(tmp_path / "empty")]) == 2
    assert "empty: there is no file gsm8k/train.jsonl; put GSM8K's" in capsys.readouterr().err
    assert zephyr([*nowhere, "--tasks", "gsm8k"]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    assert zephyr([*nowhere, "--tasks", ","]) == 2
    assert "--tasks: names no task" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_stopped(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zephyr.cli", *words(place, tmp_path / "killed", "--tasks", TASKS)]
    command += ["--max-tokens", "64"]
    requests = tmp_path / "killed" / "requests.sqlite"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while answered(requests) < 3 and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = answered(requests)
    assert kept >= 3
    subprocess.run(command, check=True, capture_output=True)
    whole = words(place, tmp_path / "whole", "--tasks", TASKS, "--max-tokens", 64)
    subprocess.run([sys.executable, "-m", "zephyr.cli", *whole], check=True, capture_output=True)
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("killed", "whole"))
    assert first == second
    assert kept <= answered(requests) == answered(tmp_path / "whole" / "requests.sqlite")
