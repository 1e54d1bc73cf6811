"""A judged score with its interval, the number of judgments behind it, and the number that are missing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zephyr.intervals import NORMAL_95, mean_within
from zephyr.records.fields import Json

INCOMPLETE_ABOVE = 0.02
# Between what the values of judges lie: ratings, and shares of a verdict, which are shown in percent.
RATING_SCALE, SHARE_SCALE = (1.0, 10.0), (0.0, 1.0)


class Judgment(NamedTuple):
    """One value of a judge, or None where there is none; values of the same `prompt` are drawn together."""

    prompt: str
    value: float | None


class JudgedScore(NamedTuple):
    """The mean of `n` judgments of `prompts` prompts, with standard error and 95 % interval over prompts."""

    score: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    missing: int
    prompts: int

    @property
    def is_incomplete(self) -> bool:
        """Whether more judgments are missing than a score may lack."""
        return self.missing > INCOMPLETE_ABOVE * (self.n + self.missing)

    def fields(self) -> dict[str, Json]:
        """As plain fields, with its label."""
        return {**self._asdict(), "label": "incomplete" if self.is_incomplete else "complete"}


def judged_score(
    judgments: Sequence[Judgment], *, seed: int, scale: float = 1.0, within: tuple[float, float] = RATING_SCALE
) -> JudgedScore:
    """The score of the judgments that are there, times `scale`; missing ones are left out. `within`: of all values."""
    there = [(one.prompt, scale * one.value) for one in judgments if one.value is not None]
    missing = len(judgments) - len(there)
    if not there:
        return JudgedScore(None, None, None, None, 0, missing, 0)
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(prompt, len(numbers)) for prompt, _ in there]
    values = [value for _, value in there]
    estimate = mean_within(values, (scale * within[0], scale * within[1]), seed=seed, groups=groups)
    return JudgedScore(
        score=estimate.score,
        # Equal values have no spread of their own to tell the error by.
        standard_error=clustered_error(values, groups) or (estimate.high - estimate.low) / (2 * NORMAL_95),
        low=estimate.low,
        high=estimate.high,
        n=len(values),
        missing=missing,
        prompts=len(numbers),
    )


def clustered_error(values: Sequence[float], groups: Sequence[int]) -> float | None:
    """The standard error of the mean where values of one group are alike; of one value a group the usual one.

    None for a single group. Source: Miller 2024, arXiv 2411.00640, section 2.2, with G / (G - 1) for G groups.
    """
    array = np.asarray(values, dtype=np.float64)
    sums = np.bincount(np.asarray(groups), weights=array - array.mean())
    if len(sums) < 2:
        return None
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(array)
