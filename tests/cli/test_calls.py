"""`zephyr calls`: totals, failures and single calls of a ledger, in words and as JSON; and what is no ledger."""

import json

import pytest

from tests.teachers.calls import questions
from zephyr.cli import main as cli
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import Attempt, ChatReply, Spend


def zephyr(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture
def ledger(tmp_path):
    """One question that failed and was answered, one that failed for good, one whose answer steers terminals."""
    path = tmp_path / "calls.sqlite"
    first, second, third = questions(3)
    with Ledger(path) as opened:
        books = opened.books("big at http://127.0.0.1/v1")
        books.record(first, Attempt(ChatReply("0", "", "error", "HTTP 500: later"), latency_seconds=1.0))
        books.record(first, Attempt(ChatReply("0", "Yes.", "stop"), Spend(10, 5, 0.25), number=2, latency_seconds=3.0))
        books.record(second, Attempt(ChatReply("1", "", "error", "HTTP 500: later"), latency_seconds=1.0))
        books.record(third, Attempt(ChatReply("2", "\x1b[2Jgone", "length"), Spend(10, 20, 0.5), is_estimated=True))
    return path


def printed(capsys, *words: object) -> object:
    assert zephyr("calls", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_summary_counts_every_try(ledger, capsys):
    assert printed(capsys, "summary", ledger) == [
        {
            "teacher": "big at http://127.0.0.1/v1",
            "requests": 3,
            "answered": 2,
            "unanswered": 1,
            "tries": 4,
            "failed_tries": 2,
            "prompt_tokens": 20,
            "completion_tokens": 25,
            "price": 0.75,
            "tries_of_estimated_cost": 1,
            "mean_seconds": 1.25,
        }
    ]
    assert zephyr("calls", "summary", ledger) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["teacher", "requests", "answered", "unanswered"]
    assert line.startswith("big at http://127.0.0.1/v1  3")


def test_failures_say_why_and_what_was_answered_later(ledger, capsys):
    assert printed(capsys, "failures", ledger) == [
        {"tries": 2, "requests": 2, "answered_later": 1, "error": "HTTP 500: later"}
    ]


def test_calls_are_shown_whole_and_cannot_steer_the_terminal(ledger, capsys):
    assert zephyr("calls", "show", ledger, "--limit", 1) == 0
    shown = capsys.readouterr().out
    assert "user: Question 2?" in shown
    assert "answer: \\x1b[2Jgone" in shown
    assert "10 + 20 tokens, price 0.5" in shown
    name = shown.splitlines()[0]
    assert zephyr("calls", "show", ledger, name[:8], "--json") == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert found["request"]["messages"] == [["user", "Question 2?"]]
    assert found["request_hash"] == name
    assert zephyr("calls", "show", ledger, "ffffffffffffffff") == 0
    assert "no such call" in capsys.readouterr().err


def test_an_empty_ledger_and_none_at_all(tmp_path, capsys):
    with Ledger(tmp_path / "empty.sqlite"):
        pass
    assert zephyr("calls", "summary", tmp_path / "empty.sqlite") == 0
    assert capsys.readouterr().out == "none\n"
    assert zephyr("calls", "summary", tmp_path / "nothing.sqlite") == 2
    assert "there is no such ledger" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("no ledger\n" * 100)
    assert zephyr("calls", "failures", tmp_path / "text.txt") == 2
    assert "is not a call ledger of this version" in capsys.readouterr().err
