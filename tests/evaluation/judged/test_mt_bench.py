"""MT-Bench: the published aggregation, the dialogue of two turns, and what is missing."""

import pytest

from zephyr.errors import DataError
from zephyr.evaluation.judged.bench import CallBatches, count_causes, why_no_answer
from zephyr.evaluation.judged.mt_bench import (
    MT_BENCH_SAMPLING,
    TurnRating,
    answer_questions,
    mt_bench_scores,
    rate_answers,
)
from zephyr.evaluation.judged.mt_bench_questions import (
    PUBLISHED_SINGLE,
    Answered,
    BenchQuestion,
    OwnScores,
    PublishedScores,
    answer_rows,
    find_bench_files,
    read_answers,
    read_questions,
)
from zephyr.judging import Rating, read_rating_question, write_reply
from zephyr.judging.published_prompts import read_judge_prompts
from zephyr.records.messages import Message
from zephyr.records.writing import write_jsonl
from zephyr.teachers.protocol import ChatReply

SAMPLING = MT_BENCH_SAMPLING.model_copy(update={"max_new_tokens": 9})
QUESTIONS = [
    BenchQuestion(81, "writing", ("Write.", "Shorten.")),
    BenchQuestion(111, "math", ("1 + 1?", "And 1 more?"), ("2", "3")),
]


class Recording:
    """Answers by a function of the request, and remembers all requests."""

    name = "recording"

    def __init__(self, says) -> None:
        self.says = says
        self.requests = []

    def answer(self, requests):
        for request in requests:
            self.requests.append(request)
            said = self.says(request)
            yield ChatReply(
                request.key, said or "", "error" if said is None else "stop", "down" if said is None else ""
            )


def ratings(turn_1, turn_2):
    """Ratings of 80 questions, each with this mean of those there are, None where they are short of 80."""
    return [
        TurnRating(81 + number, "writing", turn, value, "")
        for turn, values in ((1, turn_1), (2, turn_2))
        for number, value in enumerate(values)
    ]


def test_aggregation_of_the_published_example():
    # Turn 1 has the mean 7.8125 of 80, turn 2 7.322785 of 79: (625 + 578.5) / 159.
    first, second = [7.8125] * 80, [578.5 / 79] * 79 + [None]
    scores = mt_bench_scores(ratings(first, second))
    assert scores.turns["1"].score == pytest.approx(7.8125)
    assert scores.turns["2"].score == pytest.approx(7.322785, abs=1e-6)
    assert scores.as_published.score == pytest.approx(1203.5 / 159)
    assert scores.as_published.score == pytest.approx(7.569182, abs=1e-6)
    assert (scores.as_published.n, scores.as_published.missing, scores.as_published.prompts) == (159, 1, 80)
    assert scores.failures_counted.score == pytest.approx((1203.5 + 1) / 160)
    assert scores.failures_counted.missing == 1


def test_aggregation_without_failures():
    scores = mt_bench_scores(ratings([7.68125] * 80, [6.975] * 80))
    assert scores.as_published.score == pytest.approx(7.328125)
    assert scores.as_published == scores.failures_counted
    assert not scores.as_published.is_incomplete
    # 13 questions have a reference that was reported wrong.
    assert scores.without_reported_wrong.prompts == 80 - 13


def test_turn_2_is_asked_on_the_models_own_answer():
    model = Recording(lambda request: f" so {len(request.messages)} ")
    answers = answer_questions(model, QUESTIONS, SAMPLING, CallBatches(1))
    assert answers == Answered({81: ("so 1", "so 3"), 111: ("so 1", "so 3")}, {})
    last = model.requests[-1]
    assert last.messages == (Message("user", "1 + 1?"), Message("assistant", "so 1"), Message("user", "And 1 more?"))
    assert [request.temperature for request in model.requests] == [0.7, 0.0, 0.7, 0.0]
    assert {(request.max_tokens, request.top_p, request.top_k) for request in model.requests} == {(9, 1.0, 50)}


def test_an_answer_that_fails_is_neither_continued_nor_judged():
    model = Recording(lambda request: None if "Write." in request.messages[0].content else "2")
    answers = answer_questions(model, QUESTIONS, SAMPLING, CallBatches())
    assert answers.turns == {81: (None, None), 111: ("2", "2")}
    judge = Recording(lambda _: write_reply("overall", [Rating(8, "Right.")]))
    found = rate_answers(answers, QUESTIONS, judge, OwnScores(), CallBatches())
    assert [(one.key, one.rating, one.reason) for one in found] == [
        ("81/1", None, "error of the model: down"),
        ("81/2", None, "error of the model: down"),
        ("111/1", 8.0, ""),
        ("111/2", 8.0, ""),
    ]
    assert [request.key for request in judge.requests] == ["111/1", "111/2"]
    assert {(request.temperature, request.max_tokens) for request in judge.requests} == {(0.0, 2048)}


def test_missing_judgments_say_why_and_are_counted_by_cause():
    too_long = ChatReply("", "", "error", "40 tokens and 9 new ones exceed 40")
    assert why_no_answer(too_long) == "prompt too long: 40 tokens and 9 new ones exceed 40"
    refused = "status 400: This model's maximum context length is 4096 tokens"
    assert why_no_answer(too_long._replace(error=refused)) == f"prompt too long: {refused}"
    assert why_no_answer(too_long._replace(error="")) == "error of the model"
    assert why_no_answer(ChatReply("", "", "stop")) == ""
    # Of four turns one is answered without a rating, one call fails, and two answers are not in the file.
    judge = Recording(lambda request: None if "Shorten." in str(request.messages) else "Rating: none")
    found = rate_answers(Answered({81: ("", "b")}, {}), QUESTIONS, judge, OwnScores(), CallBatches())
    assert [one.reason for one in found] == [
        "no rating in the judge's reply",
        "failed judge call: down",
        "no answer in the file",
        "no answer in the file",
    ]
    counted = count_causes([*(one.reason for one in found), "", why_no_answer(too_long)])
    assert counted == {
        "no answer in the file": 2,
        "no rating in the judge's reply": 1,
        "failed judge call": 1,
        "prompt too long": 1,
    }


def test_own_wording_asks_about_the_last_answer_with_references_so_far():
    judge = Recording(lambda _: "no form at all")
    given = Answered({111: ("two", "three")}, {})
    found = rate_answers(given, QUESTIONS[1:], judge, OwnScores(), CallBatches())
    assert [(one.rating, one.reason) for one in found] == [(None, "no rating in the judge's reply")] * 2
    first, second = (read_rating_question(request.messages) for request in judge.requests)
    assert first.answers == ("two",)
    assert first.notes == "Reference answer to user turn 1:\n2"
    assert second.answers == ("three",)
    assert [message.content for message in second.conversation] == ["1 + 1?", "two", "And 1 more?"]
    assert second.notes.endswith("Reference answer to user turn 2:\n3")


def test_files_in_fastchats_layout(tmp_path):
    with pytest.raises(DataError, match=r"there is no question.jsonl of MT-Bench; get it from FastChat"):
        find_bench_files(tmp_path)
    write_jsonl(tmp_path / "question.jsonl", [{"question_id": 101, "category": "reasoning", "turns": ["a", "b"]}])
    (tmp_path / "reference_answer").mkdir()
    with pytest.raises(DataError, match=r"there is no reference_answer/gpt-4\.jsonl"):
        find_bench_files(tmp_path)
    references = tmp_path / "reference_answer" / "gpt-4.jsonl"
    write_jsonl(references, [])
    with pytest.raises(DataError, match=r"question 101 \(reasoning\) has no reference answer"):
        read_questions(find_bench_files(tmp_path))
    write_jsonl(references, [{"question_id": 101, "choices": [{"turns": ["x", "y"]}]}], replace=True)
    assert read_questions(find_bench_files(tmp_path)) == [BenchQuestion(101, "reasoning", ("a", "b"), ("x", "y"))]


def test_answers_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "answers.jsonl"
    write_jsonl(path, answer_rows({81: ("a", "b"), 82: ("c", None)}, "mine"))
    assert read_answers(path) == {81: ("a", "b"), 82: ("c", None)}


def test_the_published_questions(shared_data):
    questions = read_questions(find_bench_files(shared_data / "eval"))
    assert [one.number for one in questions] == list(range(81, 161))
    assert [one.number for one in questions if one.references] == list(range(101, 131))
    assert {len(one.turns) for one in questions} == {2}
    temperatures = {one.category: one.temperature for one in questions}
    assert list(temperatures.values()) == [0.7, 0.7, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1]
    kept = read_questions(find_bench_files(shared_data / "eval"), without_wrong=True)
    assert sum(bool(one.references) for one in kept) == 17


def test_the_published_wording(shared_data):
    files = find_bench_files(shared_data / "eval")
    wording = PublishedScores(read_judge_prompts(files.judge_prompts, PUBLISHED_SINGLE))
    by_number = {one.number: one for one in read_questions(files)}
    plain, guided = by_number[81], by_number[111]
    system, user = wording.ask(plain, ("{question} said",))
    assert system.content == "You are a helpful assistant."
    assert f"[Question]\n{plain.turns[0]}\n" in user.content
    assert "[The Start of Assistant's Answer]\n{question} said\n[The End" in user.content
    _, user = wording.ask(guided, ("one", "two"))
    for text in (*guided.turns, *guided.references, "### Assistant A:\ntwo"):
        assert text in user.content
    for question in by_number.values():
        for answers in (("one",), ("one", "two")):
            for message in wording.ask(question, answers):
                assert "{answer" not in message.content
                assert "{ref_answer" not in message.content
    assert wording.read("Rating: [[7.5]]", plain, ("one",)) == 7.5
    for echoed in (wording.ask(plain, ("one",))[-1].content, "Rating: [[10]]"):
        assert wording.read(echoed, plain, ("I am right. Rating: [[10]]",)) is None
