"""`zephyr eval`: scores from local files, without network, and going on after a kill."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.judged_benches import write_baseline, write_mt_bench
from tests.evaluation.harness.small_data import small_data
from zephyr.cli import main as cli
from zephyr.evaluation.results import read_results
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

    monkeypatch.setattr("zephyr.evaluation.harness.language_model.score_continuations", refuse)
    monkeypatch.setattr("zephyr.evaluation.harness.generated.generated", refuse)
    assert zephyr(words(place, tmp_path, "--tasks", TASKS, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == told["tasks"]


def hollow_model(place: Path) -> Path:
    """A folder that can be named as a model and cannot be loaded."""
    (place / "hollow").mkdir(exist_ok=True)
    (place / "hollow" / "config.json").write_text("{}")
    return place / "hollow"


def test_mistakes_show_before_a_model_is_loaded(place: Path, tmp_path: Path, capsys) -> None:
    model, hollow = str(place / "model"), str(hollow_model(tmp_path))
    nowhere = [word if word != model else str(tmp_path / "nowhere") for word in words(place, tmp_path)]
    assert zephyr([*nowhere, "--tasks", "gsm8k"]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    named = [word if word != model else hollow for word in words(place, tmp_path)]
    assert zephyr([*named, "--tasks", "arc_chalenge"]) == 2
    assert capsys.readouterr().err == (
        "error: --tasks: unknown task 'arc_chalenge'; did you mean 'arc_challenge'?; "
        "their list is printed by `lm_eval ls tasks`\n"
    )
    (tmp_path / "empty").mkdir()
    assert zephyr([*named, "--tasks", "gsm8k", "--data", str(tmp_path / "empty")]) == 2
    assert "empty: there is no file gsm8k/train.jsonl; put GSM8K's" in capsys.readouterr().err
    assert zephyr([*named, "--tasks", ","]) == 2
    assert "--tasks: names no task" in capsys.readouterr().err


@pytest.fixture
def short(place: Path, tmp_path: Path) -> Path:
    """A folder with a model that takes 512 tokens, and data."""
    folder = tmp_path / "short"
    folder.mkdir()
    shutil.copytree(place / "model", folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    (folder / "data").symlink_to(place / "data")
    return folder


def test_an_answer_that_cannot_fit_is_refused_before_any_task_runs(short: Path, tmp_path: Path, capsys) -> None:
    assert zephyr(words(short, tmp_path / "out", "--tasks", "winogrande,gsm8k,ifeval")) == 2
    assert capsys.readouterr().err == (
        f"error: {short / 'model'}: a context of 512 tokens has no room for a prompt and the longest answer of "
        "ifeval (1,280 new tokens); leave that out of --tasks, cut answers with --max-new-tokens 256 "
        "(max_new_tokens in a recipe), or use a model of longer context\n"
    )
    assert answered(tmp_path / "out" / "requests.sqlite") == 0


def test_answers_that_are_cut_shorter_than_published_are_a_deviation(short: Path, tmp_path: Path, capsys) -> None:
    more = ("--tasks", "winogrande,gsm8k,ifeval", "--limit", 1, "--max-new-tokens", 9)
    assert zephyr(words(short, tmp_path / "out", *more)) == 0
    printed = capsys.readouterr().out
    assert "ifeval: answers end after 9 new tokens, not after the definition's 1,280" in printed
    assert "gsm8k: answers end after 9 new tokens, not after the definition's 256" in printed
    assert "winogrande: answers" not in printed
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())["tasks"]["ifeval"]["protocol"]
    assert told["prompt"]["generation_kwargs"]["max_gen_toks"] == 9
    sample = json.loads((tmp_path / "out" / "samples" / "ifeval.jsonl").read_text().splitlines()[0])
    assert len(sample["answers"][0]) < 100


# ---- benchmarks that a judge rates ----


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of MT-Bench and AlpacaEval 2."""
    folder = tmp_path_factory.mktemp("judged")
    write_mt_bench(folder / "mt_bench")
    write_baseline(folder / "alpaca_eval", 6)
    return folder


def test_judged_benchmarks_go_by_their_names(judged: Path, tmp_path: Path, capsys) -> None:
    asked = ["eval", "scripted", "--tasks", "mt_bench,alpaca_eval", "--data", str(judged), "--judge", "scripted"]
    asked += ["--out", str(tmp_path), "--limit", "5", "--offline"]
    assert zephyr(asked) == 0
    printed = capsys.readouterr().out
    assert "mt_bench of scripted, judged by scripted judge" in printed
    assert "alpaca_eval_2 of scripted, judged by scripted judge" in printed
    assert zephyr([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"].keys() == {"mt_bench", "alpaca_eval_2"}
    score = told["tasks"]["mt_bench"]["scores"]["as_published"]
    assert (score["n"], score["missing"], score["label"]) == (10, 0, "complete")
    assert told["tasks"]["alpaca_eval_2"]["scores"]["as_published"]["n"] == 5
    # Both are found as one run by `zephyr compare`.
    assert {one.benchmark for one in read_results(tmp_path)} == {"mt_bench", "alpaca_eval_2"}


def test_tasks_and_judged_benchmarks_are_one_run(place: Path, judged: Path, tmp_path: Path, capsys) -> None:
    data = small_data(tmp_path / "data")
    (data / "mt_bench").symlink_to(judged / "mt_bench")
    asked = [*words(place, tmp_path / "out"), "--data", str(data), "--tasks", "winogrande,mt_bench", "--limit", "1"]
    assert zephyr([*asked, "--judge", "scripted", "--max-new-tokens", "24"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("winogrande") < printed.index("mt_bench of ")
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())["tasks"]
    assert told.keys() == {"winogrande", "mt_bench"}
    assert told["mt_bench"]["protocol"]["max_new_tokens"] == 24
    assert told["mt_bench"]["scores"]["as_published"]["n"] == 2


def test_what_a_judged_benchmark_lacks_shows_before_a_model_is_loaded(
    judged: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("ZEPHYR_CACHE", str(tmp_path / "cache"))
    hollow = str(hollow_model(tmp_path))
    asked = ["eval", hollow, "--tasks", "mt_bench", "--out", str(tmp_path / "out"), "--offline"]
    for more, error in (
        (["--data", str(judged)], "task mt_bench: needs a judge, and none is given; name one (--judge"),
        (
            ["--judge", "scripted"],
            "cannot be fetched offline; run `zephyr data fetch mt_bench` where there is a network, or put the files",
        ),
        (["--judge", "scripted", "--data", str(tmp_path)], "there is no question.jsonl of MT-Bench; get it from"),
        (["--judge", "endpoint:gpt", "--data", str(judged)], "teacher: names no model and URL"),
        (["--judge", "scripted", "--data", str(judged)], "hollow"),
    ):
        assert zephyr([*asked, *more]) == 2
        said = capsys.readouterr().err
        assert error in said
        assert len(said.splitlines()) == 1
    assert zephyr(["eval", hollow, "--tasks", "mt_bnch", "--judge", "scripted"]) == 2
    assert "did you mean 'mt_bench'?" in capsys.readouterr().err


# ---- going on ----

# Computes as `zephyr` does, and writes down every text before it is scored, and every prompt as it is answered.
WATCHED = """
import sys
from zephyr.cli import main as cli
from zephyr.evaluation.harness import generated, language_model

log = open(sys.argv[1], "a", buffering=1)
score, generate = language_model.score_continuations, generated.generated

def scored(scorer, batch):
    log.writelines(f"{one.ids.tolist()} {one.num_scored}\\n" for one in batch)
    return score(scorer, batch)

def said(model, prompts, *more, **options):
    for one in generate(model, prompts, *more, **options):
        log.write(f"{list(prompts[one.prompt_index])}\\n")
        yield one

language_model.score_continuations, generated.generated = scored, said
cli.main(sys.argv[2:])
"""
MOST_TOGETHER = 8  # requests of these tasks that fit 64 tokens


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_evaluation_repeats_only_what_was_in_flight(place: Path, tmp_path: Path, end: int) -> None:
    more = ("--tasks", TASKS, "--max-tokens", 64)
    requests, logs = tmp_path / "stopped" / "requests.sqlite", [tmp_path / "first.log", tmp_path / "second.log"]

    def command(log: Path, out: str) -> list[str]:
        return [sys.executable, "-c", WATCHED, str(log), *words(place, tmp_path / out, *more)]

    with subprocess.Popen(
        command(logs[0], "stopped"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while answered(requests) < 3 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(end)
        _, errors = process.communicate()
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert errors.endswith("stopped; run the same command again to continue\n")
    kept = answered(requests)
    assert kept >= 3
    subprocess.run(command(logs[1], "stopped"), check=True, capture_output=True)
    before, after = (log.read_text().splitlines() for log in logs)
    total = answered(requests)
    assert len(after) == total - kept
    assert len(set(before) & set(after)) == len(before) - kept <= MOST_TOGETHER
    assert len(set(before) | set(after)) == total
    subprocess.run(command(tmp_path / "whole.log", "whole"), check=True, capture_output=True)
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("stopped", "whole"))
    assert first == second
