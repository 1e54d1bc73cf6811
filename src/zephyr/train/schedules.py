"""Learning-rate schedules: factors of the peak rate as pure functions of the 0-based optimizer step.

They equal transformers' schedules of the same names, including that the first step of a warm-up has rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from zephyr.recipe.steps import Steps
from zephyr.recipe.train_section import Scheduler, TrainSection

# The time scale inverse_sqrt falls back on without a warm-up.
INVERSE_SQRT_TIMESCALE = 10_000


def learning_rate_at(step: int, train: TrainSection, steps: Steps) -> float:
    """The learning rate at a 0-based step; the warm-up rises linearly from 0."""
    if step < steps.warmup_steps:
        return train.learning_rate * (step / steps.warmup_steps)
    return train.learning_rate * SCHEDULES[train.lr_scheduler_type](step, train, steps)


def _progress(step: int, steps: Steps) -> float:
    """How much of the way from the end of the warm-up to the last step is done, 0 to 1."""
    return min(1.0, (step - steps.warmup_steps) / max(1, steps.num_steps - steps.warmup_steps))


def linear(step: int, _train: TrainSection, steps: Steps) -> float:
    """A straight line down to 0."""
    return 1 - _progress(step, steps)


def cosine(step: int, _train: TrainSection, steps: Steps) -> float:
    """Half a cosine down to 0.

    Source: SGDR without restarts, arXiv 1608.03983.
    """
    return 0.5 * (1 + math.cos(math.pi * _progress(step, steps)))


def cosine_with_min_lr(step: int, train: TrainSection, steps: Steps) -> float:
    """Half a cosine down to ``min_lr_ratio``."""
    return cosine(step, train, steps) * (1 - train.min_lr_ratio) + train.min_lr_ratio


def inverse_sqrt(step: int, _train: TrainSection, steps: Steps) -> float:
    """The root of warm-up steps over steps; without a warm-up, of 10,000 over 10,000 + steps.

    Source: Attention is all you need, arXiv 1706.03762, equation 3.
    """
    timescale = steps.warmup_steps or INVERSE_SQRT_TIMESCALE
    return math.sqrt(timescale / (step + timescale - steps.warmup_steps))


def constant(_step: int, _train: TrainSection, _steps: Steps) -> float:
    """The peak throughout."""
    return 1.0


SCHEDULES: dict[Scheduler, Callable[[int, TrainSection, Steps], float]] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_min_lr": cosine_with_min_lr,
    "inverse_sqrt": inverse_sqrt,
    "constant_with_warmup": constant,
    "constant": constant,
}
