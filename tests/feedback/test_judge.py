"""Judging: ratings reach the answers they are about, in whatever order these were shown; failures are no scores."""

import json
from collections import Counter

import pytest

from tests.feedback.recorded_teachers import RecordedTeacher, cut_off, failed
from zephyr.errors import DataError
from zephyr.feedback.judge import calls_beside, judge, without_ratings, write_judged
from zephyr.judging import ASPECTS, OVERALL, Rating, read_rating_question, write_reply
from zephyr.recipe.feedback_section import JudgingSection
from zephyr.records.formats import record_of
from zephyr.records.messages import Message
from zephyr.records.reading import read_rows
from zephyr.records.rows import Answer, Rated, prompt_id

ROWS = [
    Rated(
        f"row {number}",
        (Message("user", f"question {number}"),),
        tuple(Answer(f"answer {rank} to {number}", f"model {rank}") for rank in range(1, 5)),
    )
    for number in range(12)
]


def honest_reply(request) -> str:
    """A judge who rates "answer n" with n, and doubles it over all."""
    question = read_rating_question(request.messages)
    ranks = [int(text.split()[1]) for text in question.answers]
    factor = 2 if question.aspect == OVERALL else 1
    return write_reply(question.aspect, [Rating(factor * rank, f"rank {rank}") for rank in ranks])


def test_ratings_reach_the_answers_they_are_about():
    judged = list(judge(ROWS, RecordedTeacher(honest_reply), JudgingSection()))
    assert [one.rated.name for one in judged] == [row.name for row in ROWS]
    for one, row in zip(judged, ROWS, strict=True):
        for rank, (answer, before) in enumerate(zip(one.rated.answers, row.answers, strict=True), start=1):
            assert (answer.text, answer.model) == (before.text, before.model)
            assert answer.ratings == dict.fromkeys(ASPECTS, rank)
            assert answer.score == 2 * rank
            assert answer.rationale == f"rank {rank}"
    total = sum((one.counts for one in judged), Counter())
    assert total == {"prompts": 12, "questions": 12 * 8, "rated": 12 * 8, "asked": 12 * 8}


def test_texts_are_shown_in_a_random_order_that_is_recorded():
    teacher = RecordedTeacher(honest_reply)
    judged = list(judge(ROWS, teacher, JudgingSection(aspects=ASPECTS)))
    orders = [call.shown for one in judged for call in one.calls]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 10
    shown = [read_rating_question(request.messages).answers for request in teacher.asked]
    recorded = [tuple(one.rated.answers[index].text for index in call.shown) for one in judged for call in one.calls]
    assert shown == recorded
    assert [request.seed for request in teacher.asked] == [call.seed for one in judged for call in one.calls]
    assert {request.temperature for request in teacher.asked} == {0.0}


def test_texts_can_be_shown_as_they_are_or_reversed():
    for order, expected in (("given", (0, 1, 2, 3)), ("reversed", (3, 2, 1, 0))):
        judged = judge(ROWS, RecordedTeacher(honest_reply), JudgingSection(aspects=ASPECTS), order=order)
        calls = [(one, call) for one in judged for call in one.calls]
        assert {call.shown for _, call in calls} == {expected}
        assert all(one.rated.answers[2].ratings[call.aspect] == 3 for one, call in calls)


def test_the_judge_is_told_what_is_known_and_what_authors_were_told():
    told = Answer("an answer", system='Say how sure you are. For instance, close with "80%".')
    row = ROWS[0]._replace(answers=(told, Answer("another")), knowledge="Paris is right.")
    teacher = RecordedTeacher(lambda _: "?")
    list(judge([row], teacher, JudgingSection(num_tries=1)))
    questions = [read_rating_question(request.messages) for request in teacher.asked]
    notes = {question.aspect: question.notes for question in questions if question.aspect != OVERALL}
    known = dict.fromkeys(("truthfulness", "helpfulness"), "Paris is right.")
    assert notes == known | dict.fromkeys(("instruction_following", "honesty"), "")
    critiques = {question.answers[0]: question.notes for question in questions if question.aspect == OVERALL}
    assert critiques == {
        "an answer": "The author of the text had been told: Say how sure you are.",
        "another": "",
    }


def test_failed_tries_are_kept_with_what_came_back():
    (one,) = judge(ROWS[:1], RecordedTeacher(lambda _: "Rating: 5"), JudgingSection(aspects=("honesty",), num_tries=2))
    first, second = one.calls[0].failures
    assert (first.reason, first.reply, sorted(first.shown)) == ("headings", "Rating: 5", [0, 1, 2, 3])
    assert "1 blocks for 4 texts" in first.detail
    assert first.seed != second.seed


def test_ratings_do_not_depend_on_the_order_of_rows():
    # A judge whose scores hang on the place and on the fence: any change of a request changes them.
    def moody(request) -> str:
        question = read_rating_question(request.messages)
        places = range(len(question.answers))
        return write_reply(question.aspect, [Rating((place + request.seed) % 5 + 1, "") for place in places])

    once = {one.rated.name: one for one in judge(ROWS, RecordedTeacher(moody), JudgingSection())}
    again = {one.rated.name: one for one in judge(ROWS[::-1], RecordedTeacher(moody), JudgingSection(), chunk_rows=5)}
    assert again == once
    other = {one.rated.name: one for one in judge(ROWS, RecordedTeacher(moody), JudgingSection(), seed=1)}
    assert other != once


def test_without_an_overall_question_the_rationales_of_the_aspects_are_kept():
    (one, *_) = judge(ROWS, RecordedTeacher(honest_reply), JudgingSection(aspects=("honesty", "helpfulness")))
    assert one.rated.answers[1].score is None
    assert one.rated.answers[1].ratings == {"honesty": 2, "helpfulness": 2}
    assert one.rated.answers[1].rationale == "honesty: rank 2\nhelpfulness: rank 2"


def test_what_cannot_be_read_is_asked_again_in_another_way():
    seen: dict[tuple, int] = {}

    def second_time(request) -> str:
        question = read_rating_question(request.messages)
        name = (question.aspect, tuple(sorted(question.answers)))
        seen[name] = seen.get(name, 0) + 1
        return honest_reply(request) if seen[name] == 2 else "Overall Score: 10 or so\nRating: 5"

    teacher = RecordedTeacher(second_time)
    judged = list(judge(ROWS[:1], teacher, JudgingSection()))
    assert [answer.score for answer in judged[0].rated.answers] == [2, 4, 6, 8]
    assert judged[0].rated.answers[2].ratings == dict.fromkeys(ASPECTS, 3)
    assert len({request.messages for request in teacher.asked}) == len({r.seed for r in teacher.asked}) + 2 * 3 == 16
    assert judged[0].counts == {
        "prompts": 1,
        "questions": 8,
        "rated": 8,
        "asked": 16,
        "failed tries: headings": 4,
        "failed tries: verdict": 4,
    }


def test_failures_never_become_scores():
    def spoilt(request):
        aspect = read_rating_question(request.messages).aspect
        if aspect == "honesty":
            return failed(request)
        if aspect == "helpfulness":
            return cut_off(request, honest_reply(request))
        return "Rating: 5" if aspect == "truthfulness" else honest_reply(request)

    teacher = RecordedTeacher(spoilt)
    (one,) = judge(ROWS[:1], teacher, JudgingSection(num_tries=3))
    assert all(set(answer.ratings) == {"instruction_following"} for answer in one.rated.answers)
    assert one.counts == {
        "prompts": 1,
        "questions": 8,
        "rated": 5,
        "failed": 3,
        "asked": 5 + 1 + 3 + 3,
        "failed tries: teacher error": 1,
        "failed tries: cut off": 3,
        "failed tries: headings": 3,
    }
    assert one.counts["asked"] == len(teacher.asked)

    (lost,) = judge(ROWS[:1], RecordedTeacher(lambda _: "Overall Score: 0.5"), JudgingSection(aspects=(OVERALL,)))
    assert [answer.score for answer in lost.rated.answers] == [None] * 4
    assert lost.counts["failed tries: range"] == 12


def test_prompts_with_too_few_answers_cost_nothing():
    teacher = RecordedTeacher(honest_reply)
    lone = ROWS[0]._replace(answers=ROWS[0].answers[:1])
    none = ROWS[0]._replace(answers=())
    judged = list(judge([lone, none], teacher, JudgingSection()))
    assert [one.rated for one in judged] == [lone, none]
    assert not teacher.asked
    assert judged[0].counts == {"prompts": 1, "prompts not asked about": 1}
    (one,) = judge([lone], teacher, JudgingSection(), min_answers=1)
    assert one.rated.answers[0].score == 2


# ---- files ----

FEW = [
    Rated("r1", (Message("user", "one"),), (Answer("a", "big"), Answer("b", "small")), "s", "known"),
    Rated("r2", (Message("user", "two"),), ()),
]


def reply_about_overall(request) -> str:
    question = read_rating_question(request.messages)
    if question.aspect == "honesty":
        return "no"
    return write_reply(question.aspect, [Rating(4, f"about {text}") for text in question.answers])


@pytest.fixture
def written(tmp_path):
    found = judge(
        FEW, RecordedTeacher(reply_about_overall), JudgingSection(aspects=("honesty", "overall"), num_tries=2)
    )
    ratings = tmp_path / "ratings.jsonl"
    counts = write_judged(found, "the judge", ratings, calls_beside(ratings))
    return ratings, counts


def test_ratings_are_read_back(written):
    ratings, counts = written
    assert (counts["prompts"], counts["rated"], counts["failed"]) == (2, 2, 1)
    assert counts["prompts without an answer"] == 1
    (row,) = read_rows(ratings)
    rated = record_of(row, "rated", "rated")
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
    assert first["prompt_id"] == prompt_id(FEW[0].prompt)
    assert first["ratings"] == [{"score": 4.0, "rationale": "about a", "types": [], "type_rationale": ""}]


def test_nothing_is_written_over_unless_asked_for(written):
    ratings, _ = written
    with pytest.raises(DataError, match="already exists"):
        write_judged([], "j", ratings, calls_beside(ratings))
    write_judged([], "j", ratings, calls_beside(ratings), replace=True)
    assert ratings.read_text() == ""


def test_ratings_of_another_judge_are_taken_off():
    answer = Answer("a", "big", 9.0, {"honesty": 2.0}, "why", "honesty", "Be honest.")
    (bare,) = without_ratings(FEW[0]._replace(answers=(answer,))).answers
    assert bare == Answer("a", "big", principle="honesty", system="Be honest.")
