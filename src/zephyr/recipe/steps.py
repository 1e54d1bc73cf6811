"""The optimizer steps of a training section: pure arithmetic, the same for check, plan and the training loop."""

import math
from typing import NamedTuple

from zephyr.errors import RecipeError
from zephyr.recipe.train_section import TrainSection


class Steps(NamedTuple):
    """How many optimizer steps so many examples make; the last batch of an epoch holds what is left."""

    num_examples: int
    batch_size: int
    steps_per_epoch: int
    num_steps: int
    warmup_steps: int

    def epoch(self, steps_done: int) -> float:
        """Epochs seen after `steps_done` steps, as a fraction."""
        whole, place = divmod(steps_done, self.steps_per_epoch)
        return whole + min(place * self.batch_size, self.num_examples) / self.num_examples


def count_steps(train: TrainSection, num_examples: int, *, batch_size: int | None = None) -> Steps:
    """The steps over `num_examples`; `max_steps` overrides `num_train_epochs`, a warm-up ratio is rounded up.

    ``batch_size``: examples of a step, where they are not what `train_batch_size` counts. Raises ValueError for none.
    """
    if num_examples < 1:
        raise ValueError("there is no example to train on")
    batch_size = batch_size or train.train_batch_size
    steps_per_epoch = math.ceil(num_examples / batch_size)
    num_steps = train.max_steps or math.ceil(steps_per_epoch * train.num_train_epochs)
    warmup_steps = train.warmup_steps
    if warmup_steps is None:
        warmup_steps = math.ceil(train.warmup_ratio * num_steps)
    return Steps(num_examples, batch_size, steps_per_epoch, num_steps, warmup_steps)


def check_warmup(steps: Steps, train: TrainSection, where: str) -> None:
    """Check that the learning rate reaches its peak before the last step; ``where`` is the key of ``train``.

    Raises RecipeError.
    """
    if steps.warmup_steps < steps.num_steps:
        return
    setting = "warmup_steps" if train.warmup_steps is not None else "warmup_ratio"
    raise RecipeError(
        f"{where}.{setting}",
        f"the warm-up takes {steps.warmup_steps:,} of {steps.num_steps:,} steps, so the learning rate never reaches "
        f"{train.learning_rate:g}",
        "shorten it (0 for none), or train for more steps",
    )
