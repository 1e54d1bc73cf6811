"""A task's score with its doubt, out of the values of its documents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zephyr.intervals import NORMAL_95, bootstrap_mean, wilson

# Of one document: a number, or several (IFEval's instructions of a prompt).
Value = float | Sequence[float]


class Score(NamedTuple):
    """A mean with its standard error and 95 % interval; `n` documents. No doubt is known of what is no mean."""

    score: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int


def score_of(values: Sequence[Value], *, seed: int) -> Score:
    """The mean over all values; documents are what is drawn, so values of one document stand or fall together.

    Wilson's interval where every value is 0 or 1, a bootstrap's where not.
    """
    lists = [list(value) if isinstance(value, Sequence) else [float(value)] for value in values]
    flat = np.asarray([one for row in lists for one in row], dtype=np.float64)
    alone = all(len(row) == 1 for row in lists)
    if alone and bool(np.isin(flat, (0.0, 1.0)).all()):
        estimate = wilson(int(flat.sum()), len(flat))
    else:
        groups = [number for number, row in enumerate(lists) for _ in row]
        estimate = bootstrap_mean(flat.tolist(), seed=seed, groups=groups)
    if alone and len(flat) > 1:
        error = float(flat.std(ddof=1)) / math.sqrt(len(flat))
    else:
        error = (estimate.high - estimate.low) / (2 * NORMAL_95)
    return Score(estimate.score, error, estimate.low, estimate.high, len(lists))


def of_group(members: Mapping[str, Score]) -> dict[str, Score]:
    """The scores of a group of tasks: the mean of its members, and the mean of all their documents."""
    scores = list(members.values())
    sizes = np.asarray([one.n for one in scores], dtype=np.float64)
    return {
        "mean_of_subjects": _weighted(scores, np.full(len(scores), 1 / len(scores))),
        "mean_of_questions": _weighted(scores, sizes / sizes.sum()),
    }


def _weighted(scores: Sequence[Score], weights: np.typing.NDArray[np.float64]) -> Score:
    mean = float(np.dot(weights, [one.score for one in scores]))
    error = math.sqrt(sum((w * (one.standard_error or 0.0)) ** 2 for w, one in zip(weights, scores, strict=True)))
    half = NORMAL_95 * error
    return Score(mean, error, max(0.0, mean - half), min(1.0, mean + half), sum(one.n for one in scores))
