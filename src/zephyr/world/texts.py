"""Plain text of the world, for a base model to read: what its questions ask, stated, and people who repeat lists.

Small models learn late to copy what stands before, and every task on lists needs it; hearing somebody say a list
again teaches it early. Source: induction heads, arXiv 2209.11895
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from zephyr.records.rows import Text
from zephyr.world.catalogue import TASKS
from zephyr.world.vocabulary import NAMES, WORDS

_SENTENCES = (3, 6)
_LENGTHS = (3, 7)
_ECHO_SHARE = 0.5
_SAID = (*WORDS, *NAMES, *map(str, range(1, 21)))


def pretrain_texts(seed: int, count: int) -> Iterator[Text]:
    """``count`` texts of a few sentences each."""
    rng = Random(f"texts {seed}")
    tasks = list(TASKS.values())
    for number in range(1, count + 1):
        told = rng.choices(tasks, k=rng.randint(*_SENTENCES))
        sentences = [task.statement(task.draw(rng), rng) for task in told]
        if rng.random() < _ECHO_SHARE:
            sentences.insert(rng.randrange(len(sentences) + 1), _echo(rng))
        yield Text(f"world text {number}", " ".join(sentences), "world")


def _echo(rng: Random) -> str:
    """Somebody says a list, and somebody else says it again, or backwards."""
    said = rng.sample(_SAID, rng.randint(*_LENGTHS))
    first, second = rng.sample(NAMES, 2)
    again, how = (said, "again") if rng.random() < 0.6 else (said[::-1], "backwards")
    return f"{first} says: {', '.join(said)}. {second} says it {how}: {', '.join(again)}."
