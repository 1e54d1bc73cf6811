"""Intervals: hand-worked numbers and the laws an interval must obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.evaluate.intervals import bootstrap_mean, share


def test_wilsons_interval_by_hand():
    # p = 0.8, n = 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415, half 1.96 / 1.38415 * sqrt(0.016 + 0.0096036).
    found = share(8, 10)
    assert found.score == 0.8
    assert (found.low, found.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_in_its_interval_within_zero_and_one(counts):
    successes, n = counts
    found = share(successes, n)
    assert 0 <= found.low <= found.score <= found.high <= 1
    mirrored = share(n - successes, n)
    assert mirrored.low == pytest.approx(1 - found.high)


def test_more_prompts_narrow_the_interval():
    assert share(50, 100).high - share(50, 100).low > share(200, 400).high - share(200, 400).low


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
        share(*counts)
