"""95 % intervals: Wilson's of shares, and bootstraps over prompts of means and of any other statistic."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# The two-sided 95 % point of the normal distribution, and as published tables round it.
NORMAL_95 = 1.959963984540054
ROUNDED_NORMAL_95 = 1.96
MEAN_DRAWS = 2000
STATISTIC_DRAWS = 1000
# With fewer prompts a bootstrap's interval is too narrow.
FEWEST_DRAWN = 30
# The two-sided 95 % points of Student's t with 1, 2, ... degrees of freedom.
_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
)  # fmt: skip


class Estimate(NamedTuple):
    """A mean or share over `n` independent items and its 95 % interval."""

    score: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int) -> Estimate:
    """The share `successes` / `n` with Wilson's interval; `successes` may hold halves, for ties.

    Raises ValueError for impossible counts.
    Source: Wilson 1927, J. Am. Stat. Assoc. 22; Brown, Cai and DasGupta 2001 on why not the plain normal one.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    share, z2 = successes / n, NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding alone can push an end past the value it must enclose.
    return Estimate(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)), n)


def bootstrap_mean(values: Sequence[float], *, seed: int, groups: Sequence[int] | None = None) -> Estimate:
    """The mean of the values, with the percentile interval of a bootstrap over prompts.

    `groups`: the prompt each value belongs to, where a prompt has several; whole prompts are drawn then, and `n` counts
    them. Raises ValueError without values.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    if not len(values):
        raise ValueError("need at least one value")
    array = np.asarray(values, dtype=np.float64)
    _, of = np.unique(np.arange(len(array)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(of, weights=array), np.bincount(of)
    draws = np.random.default_rng(seed).integers(len(sums), size=(MEAN_DRAWS, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(sums))


def mean_within(
    values: Sequence[float], scale: tuple[float, float], *, seed: int, groups: Sequence[int] | None = None
) -> Estimate:
    """The mean of values on a scale, with a bootstrap's interval over prompts where there are enough, else Wilson's.

    Wilson's interval for the mean as a share of the scale is too wide rather than too narrow, as no values on a scale
    spread more than those at its ends; it has a width where all values are equal. `groups` as in `bootstrap_mean`.
    """
    found = bootstrap_mean(values, seed=seed, groups=groups)
    if found.n >= FEWEST_DRAWN and found.low < found.high:
        return found
    lowest, width = scale[0], scale[1] - scale[0]
    share = min(1.0, max(0.0, (found.score - lowest) / width))
    estimate = wilson(share * found.n, found.n)
    return Estimate(found.score, lowest + width * estimate.low, lowest + width * estimate.high, found.n)


def difference_interval(
    values: Sequence[float], *, seed: int, groups: Sequence[int]
) -> tuple[float, float] | tuple[None, None]:
    """The interval of the mean of differences over prompts: a bootstrap's, Student's where there are few.

    None, None where all are equal, which tells nothing of how far others may differ.
    """
    array = np.asarray(values, dtype=np.float64)
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    deviations = np.bincount(of, weights=array - array.mean())
    n = len(deviations)
    if n < 2 or not np.ptp(array):
        return None, None
    if n >= FEWEST_DRAWN:
        found = bootstrap_mean(values, seed=seed, groups=groups)
        return found.low, found.high
    half = _T_95[n - 2] * math.sqrt(n / (n - 1) * float(deviations @ deviations)) / len(array)
    return float(array.mean()) - half, float(array.mean()) + half


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float], num_items: int, *, seed: int
) -> tuple[float, float] | None:
    """The middle 95 % of a statistic over bootstrap draws; None if it is NaN for every draw, which are left out.

    `statistic` takes the indices of the drawn items, (num_items,).
    """
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(random.integers(0, num_items, num_items)) for _ in range(STATISTIC_DRAWS)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def difference(after: Estimate, before: Estimate) -> Estimate:
    """What `after` is more than `before`, with an interval as if they were measured on separate prompts.

    Of scores on the same prompts it is too wide rather than too narrow, as they rise and fall together. `n` is the
    smaller one. Source: Zou and Donner 2008, Statistics in Medicine 27 (MOVER).
    """
    gain = after.score - before.score
    below = math.hypot(after.score - after.low, before.high - before.score)
    above = math.hypot(after.high - after.score, before.score - before.low)
    return Estimate(gain, gain - below, gain + above, min(after.n, before.n))
