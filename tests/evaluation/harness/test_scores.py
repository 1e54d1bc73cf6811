"""Scores with their doubt, on numbers worked out by hand."""

import math

import pytest

from zephyr.evaluation.harness.evaluation import Score, family_scores, of_group, score_of


def test_verdicts_have_wilsons_interval_and_the_error_of_a_mean() -> None:
    found = score_of([1.0, 1.0, 0.0, 1.0], seed=0)
    assert (found.score, found.n) == (0.75, 4)
    # sqrt(0.75 * 0.25 / 3), as a sample's variance has n - 1 below.
    assert found.standard_error == pytest.approx(0.25)
    # Wilson: centre (0.75 + 1.9207/4) / (1 + 3.8415/4), half 1.96 / 1.9604 * sqrt(0.1875/4 + 3.8415/64).
    assert found.low == pytest.approx(0.3006, abs=1e-4)
    assert found.high == pytest.approx(0.9544, abs=1e-4)


def test_few_shares_have_wilsons_interval_and_many_a_bootstraps() -> None:
    found = score_of([0.2, 0.4, 0.9], seed=0)
    assert found.score == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(math.sqrt(0.13) / math.sqrt(3))
    # Wilson for 1.5 of 3: centre 0.5, half 1.96 / 2.2805 * sqrt(0.25/3 + 3.8415/36).
    assert (found.low, found.high) == pytest.approx((0.1253, 0.8747), abs=1e-4)
    many = score_of([0.2, 0.4, 0.9] * 20, seed=0)
    assert 0.4 < many.low < 0.5 < many.high < 0.6
    assert score_of([0.2, 0.4, 0.9] * 20, seed=0) == many


def test_no_interval_collapses() -> None:
    for value in (0.0, 1.0, 0.5):
        for n in (1, 5, 60):
            found = score_of([[value, value]] * n, seed=0)
            assert found.low < found.high
            assert found.standard_error > 0


def test_several_values_of_a_document_stand_or_fall_together() -> None:
    found = score_of([[1.0, 1.0, 1.0], [0.0]], seed=0)
    assert (found.score, found.n) == (0.75, 2)
    # Wilson for 1.5 of two documents, not of four values.
    assert (found.low, found.high) == pytest.approx((0.1979, 0.9734), abs=1e-4)


def test_a_group_has_the_mean_of_its_members_and_of_their_documents() -> None:
    small, large = Score(0.2, 0.04, None, None, 10), Score(0.6, 0.03, None, None, 30)
    found = of_group({"a": small, "b": large})
    assert found["mean_of_subjects"].score == pytest.approx(0.4)
    assert found["mean_of_subjects"].standard_error == pytest.approx(0.5 * math.hypot(0.04, 0.03))
    assert found["mean_of_questions"].score == pytest.approx(0.5)
    assert found["mean_of_questions"].standard_error == pytest.approx(math.hypot(0.25 * 0.04, 0.75 * 0.03))
    assert found["mean_of_questions"].n == 40


def test_ifeval_has_a_score_for_each_group_of_families() -> None:
    def sample(names: list[str], verdicts: list[bool]) -> dict[str, object]:
        return {"doc": {"instruction_id_list": names}, "inst_level_strict_acc": verdicts}

    found = family_scores(
        [
            sample(["keywords:existence", "keywords:frequency", "startend:quotation"], [True, False, True]),
            sample(["startend:end_checker"], [False]),
            {"doc": {"question": "How much?"}, "acc": 1.0},
        ]
    )
    assert {name: (one.score, one.n) for name, one in found.items()} == {
        "inst_level_strict_acc/keywords": (0.5, 1),
        "inst_level_strict_acc/startend": (0.5, 2),
    }
