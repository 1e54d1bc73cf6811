"""Judged scores and their doubt."""

import math
import statistics

import pytest

from zephyr.evaluation.judged.score import Judgment, clustered_error, judged_score


def test_what_is_missing_is_counted_and_not_guessed():
    score = judged_score([Judgment("a", 4.0), Judgment("b", 8.0), Judgment("c", None)], seed=0)
    assert (score.score, score.n, score.missing, score.prompts) == (6.0, 2, 1, 2)
    assert score.standard_error == pytest.approx(statistics.stdev([4.0, 8.0]) / math.sqrt(2))
    # Wilson for 5/9 of the scale from 1 to 10, of two prompts.
    assert (score.low, score.high) == pytest.approx((2.0297, 9.3127), abs=1e-4)
    assert score.is_incomplete
    assert score.fields()["label"] == "incomplete"


@pytest.mark.parametrize("value", [1.0, 5.0, 10.0])
@pytest.mark.parametrize("num_prompts", [1, 5, 100])
def test_equal_judgments_still_have_an_error(value, num_prompts):
    score = judged_score([Judgment(str(n), value) for n in range(num_prompts)], seed=0)
    assert 1.0 <= score.low <= value <= score.high <= 10.0
    assert score.low < score.high
    assert score.standard_error > 0


def test_nothing_judged_has_no_score():
    score = judged_score([Judgment("a", None)], seed=0)
    assert score[:4] == (None, None, None, None)
    assert (score.n, score.missing) == (0, 1)


@pytest.mark.parametrize(("missing", "label"), [(2, "complete"), (3, "incomplete")])
def test_more_than_two_percent_missing_is_incomplete(missing, label):
    judgments = [Judgment(str(n), None if n < missing else 5.0) for n in range(100)]
    assert judged_score(judgments, seed=0).fields()["label"] == label


def test_errors_of_clusters():
    values = [1.0, 3.0, 2.0, 6.0, 4.0]
    alone = statistics.stdev(values) / math.sqrt(5)
    assert clustered_error(values, range(5)) == pytest.approx(alone)
    # Every value twice in a group of its own is no more than every value once.
    assert clustered_error([v for v in values for _ in range(2)], [g for g in range(5) for _ in range(2)]) == (
        pytest.approx(alone)
    )
    assert clustered_error(values, [0] * 5) is None
