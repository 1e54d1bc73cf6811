"""Means with 95 % intervals over prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zephyr.data.statistics import wilson

DRAWS = 2000


class Estimate(NamedTuple):
    """A mean over `n` prompts and its 95 % interval."""

    score: float
    low: float
    high: float
    n: int


def share(successes: int, n: int) -> Estimate:
    """The share of successes among `n` independent prompts, with Wilson's interval."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    return Estimate(*wilson(successes, n))


def bootstrap_mean(values: Sequence[float], *, seed: int, groups: Sequence[int] | None = None) -> Estimate:
    """The mean of the values, with the percentile interval of a bootstrap over prompts.

    `groups`: the prompt each value belongs to, where a prompt has several; whole prompts are drawn then, and `n` counts
    them. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    if not len(values):
        raise ValueError("need at least one value")
    array = np.asarray(values, dtype=np.float64)
    _, of = np.unique(np.arange(len(array)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(of, weights=array), np.bincount(of)
    draws = np.random.default_rng(seed).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(sums))
