"""What judged benchmarks may cost, and what they say of judgments that are missing, as a user types them."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.judged_benches import plain_prompts, write_baseline, write_mt_bench
from tests.teachers.hostile_server import running_server
from zephyr.cli import main as cli
from zephyr.models.loading import save_model
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.records.writing import write_jsonl

NUM_ASKED = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MT-Bench, AlpacaEval 2 and prompts."""
    folder = tmp_path_factory.mktemp("data")
    write_mt_bench(folder / "mt_bench")
    write_baseline(folder / "alpaca_eval", NUM_ASKED)
    write_jsonl(folder / "prompts.jsonl", plain_prompts(NUM_ASKED))
    return folder


def zephyr(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def spent(ledger: Path) -> int:
    """The tokens of all calls in a ledger."""
    with sqlite3.connect(ledger) as connection:
        return connection.execute("SELECT sum(prompt_tokens + completion_tokens) FROM calls").fetchone()[0]


def words_of(verb: str, data: Path) -> tuple[object, ...]:
    """The verb with a scripted model and its data."""
    clueless = f"answers:{data / 'alpaca_eval' / 'gpt4_1106_preview_outputs.jsonl'}"
    return {
        "mt-bench": (verb, "scripted", "--data", data),
        "alpaca-eval": (verb, "scripted", "--data", data),
        "arena": (verb, "scripted", clueless, "--prompts", data / "prompts.jsonl"),
        "eval": (verb, "scripted", "--tasks", "mt_bench,alpaca_eval", "--data", data),
    }[verb]


@pytest.mark.parametrize("by_file", [False, True], ids=["by the command", "by the file"])
@pytest.mark.parametrize("verb", ["mt-bench", "alpaca-eval", "arena", "eval"])
def test_caps_of_the_command_and_of_a_teachers_file_hold(verb, by_file, data, tmp_path, capsys) -> None:
    cap, no_cap = 9_000, 900_000
    with running_server() as server:
        judge = tmp_path / "judge.yaml"
        section = f"name: endpoint\nmodel: j\nbase_url: {server.base_url}\nconcurrency: 1\n"
        judge.write_text(f"{section}max_total_tokens: {cap if by_file else no_cap}\n")
        words = (*words_of(verb, data), "--judge", judge, "-o", tmp_path / "out", "--offline")
        assert zephyr(*words, "--cap-tokens", no_cap if by_file else cap) == 2
        assert "the spend cap would be exceeded: " in capsys.readouterr().err
        assert 0 < len(server.events()) < 2 * NUM_ASKED
    assert 0 < spent(tmp_path / "out" / "calls.sqlite") <= cap


def test_a_cap_of_an_evaluation_is_one_of_all_its_benchmarks(data, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    with running_server() as server:
        words = ("eval", "scripted", "--data", data, "--judge", f"endpoint:j@{server.base_url}", "--offline")
        words += ("--concurrency", 1)
        # An echo is no rating, so nothing is scored.
        assert zephyr(*words, "-o", out, "--tasks", "mt_bench", "--limit", 20) == 2
        assert "nothing could be scored (40 x no rating in the judge's reply)" in capsys.readouterr().err
        words += ("--tasks", "alpaca_eval", "--limit", 3, "--cap-tokens", spent(out / "calls.sqlite") + 10)
        assert zephyr(*words, "-o", tmp_path / "alone") == 2
        assert "the spend cap" not in capsys.readouterr().err
        assert zephyr(*words, "-o", out) == 2
    assert "the spend cap would be exceeded: " in capsys.readouterr().err


def test_missing_judgments_are_counted_by_their_causes(data, tmp_path, capsys) -> None:
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), tmp_path / "model")
    words = (tmp_path / "model", "--data", data, "--judge", "scripted", "--limit", 2, "--offline")
    for verb, count in (("mt-bench", 4), ("alpaca-eval", 2)):
        out = tmp_path / verb
        assert zephyr(verb, *words, "--max-new-tokens", 2040, "-o", out) == 2
        printed = capsys.readouterr().out
        assert f"missing: {count} prompt too long; each with its reason in judgments.jsonl" in printed
        assert json.loads((out / "result.json").read_text())["scores"]["missing_causes"] == {"prompt too long": count}
    (first, *_) = (json.loads(line) for line in (tmp_path / "mt-bench" / "judgments.jsonl").open())
    assert first["reason"].startswith("prompt too long: ")
    assert first["reason"].endswith(" tokens and 2040 new ones exceed 2048")


def test_what_the_judge_fails_at_is_told_apart(data, tmp_path, capsys) -> None:
    with running_server() as server:
        words = ("--data", data, "--judge", f"endpoint:j@{server.base_url}", "--limit", 2, "--offline")
        assert zephyr("mt-bench", "scripted", *words, "-o", tmp_path / "out") == 2
    assert "missing: 4 no rating in the judge's reply; each" in capsys.readouterr().out


def test_empty_answers_are_judged_and_counted(data, tmp_path, capsys) -> None:
    given = tmp_path / "answers.jsonl"
    write_jsonl(given, [{"question_id": 81, "choices": [{"turns": ["", ""]}]}])
    words = ("mt-bench", f"answers:{given}", "--data", data, "--judge", "scripted", "--limit", 2, "--offline")
    assert zephyr(*words, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "missing: 2 no answer in the file; each" in printed
    assert "2 answers are empty, and are judged as they are" in printed
