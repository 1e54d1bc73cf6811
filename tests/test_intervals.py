"""Intervals: hand-worked numbers and the laws an interval must obey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.intervals import bootstrap_interval, bootstrap_mean, wilson


def test_wilsons_interval_by_hand():
    # p = 0.8, n = 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415, half 1.96 / 1.38415 * sqrt(0.016 + 0.0096036).
    found = wilson(8, 10)
    assert found.score == 0.8
    assert (found.low, found.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (630, 1000, 0.5996, 0.6594)],
)
def test_wilsons_interval_against_published_values(wins, n, low, high):
    found = wilson(wins, n)
    assert found.score == wins / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_in_its_interval_within_zero_and_one(counts):
    successes, n = counts
    found = wilson(successes, n)
    assert 0 <= found.low <= found.score <= found.high <= 1
    mirrored = wilson(n - successes, n)
    assert mirrored.low == pytest.approx(1 - found.high)


def test_more_prompts_narrow_the_interval():
    assert wilson(50, 100).high - wilson(50, 100).low > wilson(200, 400).high - wilson(200, 400).low


def test_a_bootstrap_over_prompts_nears_the_normal_interval():
    values = [0.0, 1.0] * 200
    found = bootstrap_mean(values, seed=0)
    # The standard error is sqrt(0.25 / 400) = 0.025.
    assert found.score == 0.5
    assert (found.low, found.high) == pytest.approx((0.451, 0.549), abs=0.005)
    assert found == bootstrap_mean(values, seed=0)
    assert bootstrap_mean([0.3], seed=0) == (0.3, 0.3, 0.3, 1)


def test_values_of_one_prompt_are_drawn_together():
    values = [0.0] * 40 + [1.0] * 40
    alone = bootstrap_mean(values, seed=0)
    together = bootstrap_mean(values, seed=0, groups=[index // 10 for index in range(80)])
    assert (together.score, together.n) == (0.5, 8)
    # Eight prompts tell as much as eight values: the standard error is sqrt(0.25 / 8) instead of sqrt(0.25 / 80).
    assert together.high - together.low == pytest.approx(10**0.5 * (alone.high - alone.low), rel=0.15)


@pytest.mark.parametrize("counts", [(1, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="need 0 <= successes"):
        wilson(*counts)


def test_the_bootstrap_of_a_statistic_is_its_percentiles_and_none_where_it_is_never_defined():
    values = np.array([0.0, 1.0] * 200)
    low, high = bootstrap_interval(lambda index: float(values[index].mean()), len(values), seed=0)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.005)
    assert bootstrap_interval(lambda index: np.nan, 10, seed=0) is None
