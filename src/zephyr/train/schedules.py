"""Learning-rate schedules: factors of the peak rate as pure functions of the 0-based optimizer step.

They equal transformers' schedules of the same names, including that the first step of a warm-up has rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from zephyr.errors import RecipeError, did_you_mean

# The time scale inverse_sqrt falls back on without a warm-up.
INVERSE_SQRT_TIMESCALE = 10_000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule over ``total_steps`` optimizer steps; the first ``warmup_steps`` rise linearly from 0.

    ``min_lr_ratio`` is the share of the peak at which cosine_with_min_lr ends; the others end as they do.
    """

    name: str
    total_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            nearest = did_you_mean(self.name, SCHEDULES).removeprefix("; ")
            raise RecipeError("lr_scheduler_type", f"there is no schedule '{self.name}'", nearest)
        problems = self._problems()
        if problems:
            raise RecipeError(f"schedule {self.name}", "; ".join(problems), "mend these settings")

    def _problems(self) -> list[str]:
        floor = self.min_lr_ratio
        tests = {
            f"total_steps must be at least 1, got {self.total_steps}": self.total_steps < 1,
            f"warmup_steps must be at least 0, got {self.warmup_steps}": self.warmup_steps < 0,
            f"min_lr_ratio must lie between 0 and 1, got {floor}": not 0 <= floor <= 1,
            f"constant has no warm-up (constant_with_warmup has), got warmup_steps {self.warmup_steps}": (
                self.name == "constant" and self.warmup_steps > 0
            ),
        }
        return [problem for problem, holds in tests.items() if holds]

    def factor(self, step: int) -> float:
        """The share of the peak learning rate at a 0-based step."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        return SCHEDULES[self.name](step, self)

    def progress(self, step: int) -> float:
        """How much of the way from the end of the warm-up to the last step is done, 0 to 1."""
        return min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))


def learning_rate_at(step: int, schedule: Schedule, learning_rate: float) -> float:
    """The learning rate at a 0-based step, when ``learning_rate`` is the peak."""
    return learning_rate * schedule.factor(step)


def linear(step: int, schedule: Schedule) -> float:
    """A straight line down to 0."""
    return 1 - schedule.progress(step)


def cosine(step: int, schedule: Schedule) -> float:
    """Half a cosine down to 0.

    Source: SGDR without restarts, arXiv 1608.03983.
    """
    return 0.5 * (1 + math.cos(math.pi * schedule.progress(step)))


def cosine_with_min_lr(step: int, schedule: Schedule) -> float:
    """Half a cosine down to ``min_lr_ratio``."""
    return cosine(step, schedule) * (1 - schedule.min_lr_ratio) + schedule.min_lr_ratio


def inverse_sqrt(step: int, schedule: Schedule) -> float:
    """The root of warm-up steps over steps; without a warm-up, of 10,000 over 10,000 + steps.

    Source: Attention is all you need, arXiv 1706.03762, equation 3.
    """
    timescale = schedule.warmup_steps or INVERSE_SQRT_TIMESCALE
    return math.sqrt(timescale / (step + timescale - schedule.warmup_steps))


def constant(_step: int, _schedule: Schedule) -> float:
    """The peak throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, Schedule], float]] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_min_lr": cosine_with_min_lr,
    "inverse_sqrt": inverse_sqrt,
    "constant_with_warmup": constant,
    "constant": constant,
}


def count_warmup_steps(total_steps: int, *, warmup_ratio: float | None = None, warmup_steps: int | None = None) -> int:
    """The warm-up in steps, given as one of the two; a ratio is rounded up, as transformers does."""
    if warmup_ratio is not None and warmup_steps is not None:
        got = f"got warmup_ratio {warmup_ratio} and warmup_steps {warmup_steps}"
        raise RecipeError("warm-up", f"it is given twice, {got}", "keep one of them")
    if warmup_steps is not None:
        return warmup_steps
    if warmup_ratio is not None and not 0 <= warmup_ratio <= 1:
        raise RecipeError("warmup_ratio", f"must lie between 0 and 1, got {warmup_ratio}", "write 0.1 for a tenth")
    return math.ceil((warmup_ratio or 0.0) * total_steps)
