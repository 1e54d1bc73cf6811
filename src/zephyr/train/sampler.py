"""Which examples an optimizer step sees: a function of the seed and the step alone, so resuming needs no state."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from zephyr.train.settings import TrainSettings


class StepPlan(NamedTuple):
    """The steps of a run: how many in an epoch, how many in all."""

    num_examples: int
    batch_size: int
    steps_per_epoch: int
    num_steps: int
    seed: int
    shuffle: bool

    def indices(self, step: int) -> list[int]:
        """The examples of 0-based ``step``; the last batch of an epoch holds what is left."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.arange(self.num_examples)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
        return [int(index) for index in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def epoch(self, steps_done: int) -> float:
        """Epochs seen after ``steps_done`` steps, as a fraction."""
        whole, place = divmod(steps_done, self.steps_per_epoch)
        return whole + min(place * self.batch_size, self.num_examples) / self.num_examples


def plan_steps(num_examples: int, settings: TrainSettings) -> StepPlan:
    """The plan of a run over ``num_examples``; ``max_steps`` overrides ``num_train_epochs``."""
    if num_examples < 1:
        raise ValueError("there is no example to train on")
    steps_per_epoch = math.ceil(num_examples / settings.train_batch_size)
    by_epochs = math.ceil(steps_per_epoch * settings.num_train_epochs)
    num_steps = by_epochs if settings.max_steps is None else settings.max_steps
    return StepPlan(
        num_examples, settings.train_batch_size, steps_per_epoch, num_steps, settings.seed, settings.shuffle
    )
