"""Files of a judge: ratings that are read back, and beside them every call with its failed tries."""

import json

import pytest

from tests.feedback.recorded_teachers import RecordedTeacher
from zephyr.errors import DataError
from zephyr.feedback.judge import JudgeSettings, judge
from zephyr.feedback.judged_files import calls_beside, without_ratings, write_judged
from zephyr.judging import Rating, read_question, write_reply
from zephyr.records.formats import convert
from zephyr.records.messages import Message
from zephyr.records.reading import read_rows
from zephyr.records.rows import Answer, Rated, prompt_id

ROWS = [
    Rated("r1", (Message("user", "one"),), (Answer("a", "big"), Answer("b", "small")), "s", "known"),
    Rated("r2", (Message("user", "two"),), ()),
]


def reply(request) -> str:
    question = read_question(request.messages)
    if question.aspect == "honesty":
        return "no"
    return write_reply(question.aspect, [Rating(4, f"about {text}") for text in question.answers])


@pytest.fixture
def written(tmp_path):
    found = judge(ROWS, RecordedTeacher(reply), JudgeSettings(aspects=("honesty", "overall"), num_tries=2))
    ratings = tmp_path / "ratings.jsonl"
    counts = write_judged(found, "the judge", ratings, calls_beside(ratings))
    return ratings, counts


def test_ratings_are_read_back(written):
    ratings, counts = written
    assert (counts["prompts"], counts["rated"], counts["failed"]) == (2, 2, 1)
    assert counts["prompts without an answer"] == 1
    (row,) = read_rows(ratings)
    rated = convert(row, "rated", "rated")
    assert (rated.source, rated.knowledge) == ("s", "known")
    assert [(one.text, one.score, one.rationale) for one in rated.answers] == [("a", 4, "about a"), ("b", 4, "about b")]


def test_every_call_is_written_with_its_failures(written):
    ratings, _ = written
    calls = [json.loads(line) for line in calls_beside(ratings).read_text().splitlines()]
    assert [(call["aspect"], len(call["failed_tries"])) for call in calls] == [
        ("honesty", 2),
        ("overall", 0),
        ("overall", 0),
    ]
    honesty, first, _ = calls
    assert honesty["ratings"] == []
    assert {failed["reason"] for failed in honesty["failed_tries"]} == {"headings"}
    assert {failed["reply"] for failed in honesty["failed_tries"]} == {"no"}
    assert (first["row"], first["judge"], first["template"], first["shown"], first["models"]) == (
        "r1", "the judge", "v1", [0], ["big"],
    )  # fmt: skip
    assert first["prompt_id"] == prompt_id(ROWS[0].prompt)
    assert first["ratings"] == [{"score": 4.0, "rationale": "about a", "types": [], "type_rationale": ""}]


def test_nothing_is_written_over_unless_asked_for(written):
    ratings, _ = written
    with pytest.raises(DataError, match="is there already"):
        write_judged([], "j", ratings, calls_beside(ratings))
    write_judged([], "j", ratings, calls_beside(ratings), replace=True)
    assert ratings.read_text() == ""


def test_ratings_of_another_judge_are_taken_off():
    answer = Answer("a", "big", 9.0, {"honesty": 2.0}, "why", "honesty", "Be honest.")
    (bare,) = without_ratings(ROWS[0]._replace(answers=(answer,))).answers
    assert bare == Answer("a", "big", principle="honesty", system="Be honest.")
