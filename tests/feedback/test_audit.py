"""Auditing judges: hand-worked measures, and judges whose fault is known and found."""

import json
import math

import numpy as np
import pytest

from tests.feedback.recorded_teachers import RecordedTeacher
from zephyr.errors import DataError
from zephyr.feedback.audit import audit_judge, cohens_kappa, verdict
from zephyr.feedback.audit_items import (
    EQUAL,
    FIRST_BETTER,
    SECOND_BETTER,
    AuditItem,
    read_llmbar,
    read_pandalm,
    world_items,
)
from zephyr.judging import Rating, read_rating_question, write_reply
from zephyr.recipe.feedback_section import JudgingSection
from zephyr.records.messages import Message
from zephyr.records.rows import Answer, Rated
from zephyr.teachers.scripted import ScriptedJudge
from zephyr.world import is_accepted

HELPFUL = JudgingSection(aspects=("helpfulness",), num_tries=1)


def item(number: int, first: str, second: str, label: int) -> AuditItem:
    row = Rated(f"row {number}", (Message("user", f"question {number}"),), (Answer(first), Answer(second)), "set")
    return AuditItem(row, label)


# "good" is better than "bad"; lengths are as in the words.
ITEMS = [item(n, *(("good", "bad", FIRST_BETTER) if n % 2 else ("bad", "good", SECOND_BETTER))) for n in range(40)]


def rating_by(score):
    """A judge that rates a text by `score(text, place, request)`."""

    def reply(request) -> str:
        question = read_rating_question(request.messages)
        scores = [score(text, place, request) for place, text in enumerate(question.answers)]
        return write_reply(question.aspect, [Rating(value, "") for value in scores])

    return RecordedTeacher(reply)


def measured(teacher, items=ITEMS, settings=HELPFUL) -> dict:
    return {(one.by, one.name): one for one in audit_judge(items, teacher, settings).measures}


def values(teacher, items=ITEMS) -> dict:
    return {name: one.value for (_, name), one in measured(teacher, items).items()}


def test_a_right_judge_is_right():
    found = values(rating_by(lambda text, *_: 5 if text == "good" else 2))
    assert found["same verdict when swapped"] == found["same verdict when repeated"] == 1
    assert found["position bias (first shown)"] == found["missing ratings"] == found["ties"] == 0
    assert found["agreement with labels"] == found["kappa with labels"] == 1
    # "good" is 5 characters with its end, "bad" 4: all of the verdict goes with the length.
    assert found["length slope of the judge"] == found["length slope of the labels"]
    assert found["length slope of the labels"] == pytest.approx(1 / math.log2(5 / 4))


def test_a_judge_that_takes_the_first_is_found_out():
    found = values(rating_by(lambda _, place, __: 5 - place))
    assert found["same verdict when swapped"] == 0
    assert found["position bias (first shown)"] == 1
    assert found["same verdict when repeated"] == 1
    assert found["agreement with labels"] == 0.5
    assert found["kappa with labels"] == 0


def test_a_judge_that_throws_dice_is_found_out():
    found = values(rating_by(lambda text, _, request: request.seed // len(text) % 5 + 1))
    assert found["same verdict when repeated"] < 0.8
    assert found["same verdict when swapped"] == 1  # with the same seed


def test_a_judge_that_cannot_be_read_has_no_verdict():
    found = measured(RecordedTeacher(lambda _: "Who knows?"))
    assert found["aspects", "missing ratings"].value == 1
    kappa = found["aspects", "kappa with labels"]
    assert (kappa.value, kappa.low, kappa.high, kappa.num_items) == (None, None, None, 0)
    assert found["aspects", "missing ratings"].num_items == 40


def test_missing_ratings_are_no_ties():
    # Half of the questions have no answer; of the other half all verdicts are right.
    def reply(request) -> str:
        question = read_rating_question(request.messages)
        if int(question.conversation[0].content.split()[1]) < 20:
            return "?"
        return write_reply(question.aspect, [Rating(5 if text == "good" else 1, "") for text in question.answers])

    found = values(RecordedTeacher(reply))
    assert (found["missing ratings"], found["ties"], found["agreement with labels"]) == (0.5, 0, 1)


def test_intervals_hold_the_value_and_shrink_with_items():
    dice = np.random.default_rng(0)
    right = {f"question {number}": dice.random() < 0.8 for number in range(400)}

    def mostly(text, _, request):
        asked = read_rating_question(request.messages).conversation[0].content
        return 5 if (text == "good") == right[asked] else 1

    few = measured(rating_by(mostly))["aspects", "agreement with labels"]
    items = [one._replace(row=one.row._replace(prompt=(Message("user", f"question {n}"),)))
             for n, one in enumerate(ITEMS * 10)]  # fmt: skip
    many = measured(rating_by(mostly), items)["aspects", "agreement with labels"]
    assert few.low <= few.value <= few.high
    assert many.low <= many.value <= many.high
    # The standard error of a share of 0.8 among 400 is 0.02.
    assert many.high - many.low == pytest.approx(4 * 0.02, abs=0.02)
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_shares_have_intervals_even_where_all_items_agree():
    found = measured(rating_by(lambda text, *_: 5 if text == "good" else 2))
    # Wilson: 40 of 40 have the lower end 1 / (1 + 1.96^2 / 40).
    same = found["aspects", "same verdict when swapped"]
    assert (same.low, same.high) == (pytest.approx(40 / (40 + 1.959964**2)), 1)
    missing = found["aspects", "missing ratings"]
    assert (missing.low, missing.high) == (0, pytest.approx(1.959964**2 / (40 + 1.959964**2)))


def test_the_overall_score_is_not_asked_in_two_orders():
    settings = JudgingSection(aspects=("helpfulness", "overall"), num_tries=1)
    teacher = rating_by(lambda text, *_: 5 if text == "good" else 2)
    found = audit_judge(ITEMS, teacher, settings)
    names = {(one.by, one.name) for one in found.measures}
    assert ("overall", "kappa with labels") in names
    assert ("overall", "same verdict when swapped") not in names
    # One question about both and two about each, in two rounds; in the swapped round the one.
    assert found.counts["questions"] == len(teacher.asked) == 40 * (3 + 1 + 3)
    assert found.counts["rated"] == 280


def test_sets_are_told_apart():
    items = [one._replace(row=one.row._replace(source=f"set {number % 2}")) for number, one in enumerate(ITEMS)]
    found = measured(rating_by(lambda _, place, __: 5 - place), items)
    assert found["aspects", "kappa, set 0"].num_items == 20
    assert {name for _, name in found} >= {"kappa, set 0", "kappa, set 1"}


def test_a_verdict_compares_what_both_have():
    first = Answer("a", score=3.0, ratings={"honesty": None, "helpfulness": 4.0})
    second = Answer("b", score=3.0, ratings={"honesty": 5.0, "helpfulness": 3.0})
    assert verdict(first, second, "overall") == EQUAL
    assert verdict(first, second, "aspects") == FIRST_BETTER
    assert verdict(second, first, "aspects") == SECOND_BETTER
    assert verdict(first, Answer("c"), "aspects") is None
    assert verdict(first, Answer("c"), "overall") is None


@pytest.mark.parametrize(
    ("one", "other", "kappa"),
    [
        # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5.
        ([1] * 25 + [-1] * 25, [1] * 20 + [-1] * 5 + [1] * 10 + [-1] * 15, 0.4),
        ([1, 0, -1], [1, 0, -1], 1.0),
        ([1, -1], [-1, 1], -1.0),
        ([1, 1, -1, -1], [1, -1, 1, -1], 0.0),
        ([1, 1], [1, 1], math.nan),
        ([], [], math.nan),
    ],
)
def test_cohens_kappa_by_hand(one, other, kappa):
    found = cohens_kappa(np.array(one, dtype=float), np.array(other, dtype=float))
    assert found == pytest.approx(kappa, nan_ok=True)


# ---- the sets ----


def test_the_closed_world_has_items_of_known_labels():
    items = list(world_items(60, seed=3))
    firsts = sum(one.label == FIRST_BETTER for one in items)
    assert 15 < firsts < 45
    for one in items:
        better, worse = one.row.answers[:: one.label]
        assert is_accepted(one.row.prompt, better.text)
        assert not is_accepted(one.row.prompt, worse.text)


def test_the_scripted_judge_agrees_with_the_world():
    found = values(ScriptedJudge(), list(world_items(60, seed=0)))
    assert found["kappa with labels"] > 0.7
    assert found["same verdict when swapped"] == 1


def test_pandalm_counts_votes(tmp_path):
    row = {"instruction": "Say hi", "input": "", "response1": "Hi", "response2": True}
    votes = [(1, 1, 2), (2, 2, 2), (0, 0, 1), (0, 1, 2)]
    rows = [row | {f"annotator{n}": vote for n, vote in enumerate(three, 1)} for three in votes]
    file = tmp_path / "testset.json"
    file.write_text(json.dumps(rows))
    items = list(read_pandalm(file))
    assert [one.label for one in items] == [FIRST_BETTER, SECOND_BETTER, EQUAL]  # of the last no two agree
    assert items[0].labels == (FIRST_BETTER, FIRST_BETTER, SECOND_BETTER)
    assert [answer.text for answer in items[0].row.answers] == ["Hi", "True"]
    people = measured(rating_by(lambda *_: 3), items)["people", "kappa between annotators"]
    assert -1 <= people.value <= 1


def test_files_that_are_something_else_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"input": "x"}]')
    with pytest.raises(DataError, match="has no field 'output_1'"):
        list(read_llmbar(tmp_path))
    (tmp_path / "a.json").write_text('[{"input": "x", "output_1": "y", "output_2": "z", "label": 3}]')
    with pytest.raises(DataError, match="label that is not 0, 1 or 2, got 3"):
        list(read_llmbar(tmp_path))
    with pytest.raises(DataError, match="no field that begins with 'annotator'"):
        list(read_pandalm(tmp_path / "a.json"))
    with pytest.raises(DataError, match="no such folder"):
        list(read_llmbar(tmp_path / "b"))


def test_the_published_sets_are_read(shared_data):
    llmbar = list(read_llmbar(shared_data / "judge" / "llmbar"))
    assert len(llmbar) == 566
    assert {one.label for one in llmbar} == {FIRST_BETTER, SECOND_BETTER}
    pandalm = list(read_pandalm(shared_data / "judge" / "pandalm" / "testset-v1.json"))
    assert len(pandalm) == 999  # at least two of three always agree
    people = measured(rating_by(lambda *_: 3), pandalm[:300])["people", "kappa between annotators"]
    assert 0.7 < people.value < 0.95
