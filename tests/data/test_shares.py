import pytest

from zephyr.data.statistics import wilson


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (630, 1000, 0.5996, 0.6594)],
)
def test_interval_against_published_values(wins, n, low, high):
    share = wilson(wins, n)
    assert share.share == wins / n
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)
