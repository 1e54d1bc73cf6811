import pytest

from zephyr.data.overall_score import Repair, mean_rating, repair_overall_score


@pytest.mark.parametrize(
    ("ratings", "score", "needs_judge"),
    [
        ((1, 1, 1, 1), 1.0, False),
        ((2, 2, 2, 2), 1.0, False),  # up to 2 it was a 1
        ((2, 2, 2, 3), None, True),  # 2.25
        ((4, 4, 4, 4), None, True),  # up to 4 nobody knows
        ((4, 4, 4, 5), 10.0, False),  # 4.25
        ((5, None, 5, 5), 10.0, False),  # N/A does not count
        ((None, 1, None, 2), 1.0, False),  # 1.5
    ],
)
def test_a_ten_is_repaired_by_the_mean_of_its_ratings(ratings, score, needs_judge):
    assert repair_overall_score(10, ratings) == Repair(score, needs_judge)


@pytest.mark.parametrize("score", [None, 1.0, 7.5, 9.0])
def test_other_scores_stay_whatever_the_ratings(score):
    assert repair_overall_score(score, (1, 1, 1, 1)) == Repair(score, needs_judge=False)


def test_a_ten_without_ratings_needs_a_judge():
    assert repair_overall_score(10.0, (None, None)) == Repair(None, needs_judge=True)


def test_mean_leaves_out_what_is_no_number():
    assert mean_rating((1.0, None, float("nan"), 4.0)) == 2.5
    assert mean_rating(()) is None
