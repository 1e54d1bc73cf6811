"""Writing, rating and pairing over HTTP, with the real `openai` client and `transformers serve` at the other end."""

import json
from pathlib import Path

import pytest

from tests.teachers.served_model import save_replying_model, serving
from zephyr.cli import main as cli
from zephyr.judging import Rating, write_reply
from zephyr.records.writing import write_jsonl
from zephyr.world import prompts

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

VERDICT = write_reply("overall", [Rating(7.0, "It says what was asked for.")])
ANSWERS = ("Red, green and blue.", "It is five.", "Yes: a very old one.")


def printed_json(capsys, *words: object) -> dict:
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, words), "--json"])
    output = capsys.readouterr()
    assert not stop.value.code, output.err
    return json.loads(output.out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    save_replying_model(folder, [VERDICT, *ANSWERS])
    with serving(folder, tmp_path_factory.mktemp("cache") / "hf") as base_url:
        yield f"endpoint:{folder}@{base_url}"


@pytest.mark.slow
def test_synth_judge_and_binarize_end_to_end(server, tmp_path, capsys):
    dialogues, asked = tmp_path / "dialogues.jsonl", tmp_path / "prompts.jsonl"
    rated, pairs = tmp_path / "rated.jsonl", tmp_path / "pairs.jsonl"
    short = ("--max-new-tokens", 16, "--concurrency", 4, "--offline")
    words = ("synth", "--generator", "world", "--teacher", server, "-o", dialogues, "--count", 24)
    assert printed_json(capsys, *words, *short)["dialogues"] == 24
    written = {row["messages"][-1]["content"] for row in lines(dialogues)}
    assert written <= {VERDICT, *ANSWERS}
    assert len(written) > 1

    write_jsonl(asked, prompts("feedback", 0, 12))
    judging = ("--judge", server, "--aspects", "overall", "--max-reply-tokens", 32)
    words = ("judge", asked, "-o", rated, "--models", server, "--num-answers", 3, *judging)
    found = printed_json(capsys, *words, *short)
    assert found["prompts"] == 12
    # The line of a verdict that stands in the judged answer too is its own, and none of the judge's.
    answers = [answer for row in lines(rated) for answer in row["answers"]]
    quoted = [answer["text"] == VERDICT for answer in answers]
    assert [answer["score"] for answer in answers] == [None if is_verdict else 7.0 for is_verdict in quoted]
    assert found["questions"] == len(answers) > 12
    assert (found["rated"], found["failed"]) == (quoted.count(False), quoted.count(True))
    ledger = Path(found["ledger"])
    first = summary_of(capsys, ledger)
    assert first["unanswered"] == first["failed_tries"] == 0
    assert first["prompt_tokens"] > 100 * found["questions"]
    again = printed_json(capsys, *words, *short, "--force")
    assert again["rated"] == found["rated"]
    assert summary_of(capsys, ledger) == first  # nothing was asked twice

    made = printed_json(capsys, "binarize", rated, "-o", pairs, "--ties", "keep")
    several = [row for row in lines(rated) if sum(answer["score"] is not None for answer in row["answers"]) > 1]
    assert made["pairs"] == len(several) > 0
    for row in lines(pairs):
        assert row["chosen"][:-1] == row["rejected"][:-1]
        assert row["chosen"][-1]["content"] != row["rejected"][-1]["content"]


def summary_of(capsys, ledger: Path) -> dict:
    (summary,) = printed_json(capsys, "calls", "summary", ledger)
    return summary


@pytest.mark.slow
def test_a_server_that_does_not_heed_schemas_is_read_strictly(server, tmp_path, capsys):
    """`transformers serve` takes response_format and does nothing with it: plain replies come, and are read as such."""
    model, _, base_url = server.removeprefix("endpoint:").rpartition("@")
    teacher, rows, rated = tmp_path / "judge.yaml", tmp_path / "rows.jsonl", tmp_path / "rated.jsonl"
    teacher.write_text(f"name: endpoint\nmodel: {model}\nbase_url: {base_url}\nstructured: true\n")
    write_jsonl(rows, prompts("feedback", 1, 3))
    words = ("judge", rows, "-o", rated, "--models", "scripted", "--num-answers", 2, "--judge", teacher)
    found = printed_json(capsys, *words, "--aspects", "overall,helpfulness", "--tries", 1, "--concurrency", 1)
    # What was said of helpfulness is in no form that was asked for, so it is no rating.
    assert found["failed"] == found["prompts"] == 3
    assert found["rated"] == found["questions"] - 3
    (judged,) = (one for one in printed_json(capsys, "calls", "summary", found["ledger"]) if "http" in one["teacher"])
    assert (judged["requests"], judged["unanswered"]) == (found["questions"], 0)


@pytest.mark.slow
def test_what_a_server_refuses_is_left_out_from_then_on_and_said(server, tmp_path, capsys, caplog):
    """`transformers serve` knows no top_k, which is left out unless it is asked for."""
    model, _, base_url = server.removeprefix("endpoint:").rpartition("@")
    teacher, out = tmp_path / "teacher.yaml", tmp_path / "dialogues.jsonl"
    teacher.write_text(f"name: endpoint\nmodel: {model}\nbase_url: {base_url}\nleft_out: []\n")
    words = ("synth", "--generator", "world", "--teacher", teacher, "-o", out, "--count", "3", "--concurrency", 1)
    assert printed_json(capsys, *words)["dialogues"] == 3
    assert [record.message for record in caplog.records if "top_k" in record.message] == [
        f"{model}: top_k is refused, and not sent from now on; to say so in the teacher's section: left_out: [top_k]"
    ]
