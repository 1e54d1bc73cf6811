"""Plain text of the world: sentences that state what its questions ask, for a base model to read."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from zephyr.records.rows import Text
from zephyr.world.catalogue import TASKS

_SENTENCES = (3, 7)


def pretrain_texts(seed: int, count: int) -> Iterator[Text]:
    """``count`` texts of a few sentences each."""
    rng = Random(f"texts {seed}")
    tasks = list(TASKS.values())
    for number in range(1, count + 1):
        told = rng.choices(tasks, k=rng.randint(*_SENTENCES))
        sentences = [task.statement(task.draw(rng), rng) for task in told]
        yield Text(f"world text {number}", " ".join(sentences), "world")
