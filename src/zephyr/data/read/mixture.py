"""Records of several sources as one sequence: a share of each, concatenated and shuffled by the seed."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from zephyr.data.read.sources import Records
from zephyr.errors import DataError
from zephyr.records.fields import printable
from zephyr.records.rows import Record, RecordKind

_R = TypeVar("_R", bound=Record)


class Mixture(Generic[_R]):
    """A sequence of records that stay on disk; the order takes 8 bytes a record."""

    def __init__(self, parts: Sequence[Records[_R]], order: Sequence[int], num_taken: Sequence[int]) -> None:
        self.num_taken = num_taken
        self._parts = parts
        self._order = order
        self._starts = [0, *accumulate(num_taken)]

    @property
    def kind(self) -> RecordKind:
        """The kind of its records."""
        return self._parts[0].kind

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[_R]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> _R:
        place = self._order[index]
        number = bisect_right(self._starts, place) - 1
        part = self._parts[number]
        # With a weight above 1 the rows repeat.
        return part[(place - self._starts[number]) % len(part)]


def mix(parts: Sequence[Records[_R]], *, seed: int, shuffle: bool) -> Mixture[_R]:
    """The first int(weight x rows) of every part, concatenated or shuffled.

    The order depends only on the seed and the numbers of rows. Raises DataError for a part of which no row is taken.
    Source: the mixer of the alignment handbook before 2025.
    """
    num_taken = [int(part.source.weight * len(part)) for part in parts]
    for part, num_rows in zip(parts, num_taken, strict=True):
        if num_rows == 0:
            what = f"a weight of {part.source.weight} takes none of its {len(part)} rows"
            raise DataError(printable(part.source.path), what, "raise the weight, or remove the source")
    order = array("Q", range(sum(num_taken)))
    if shuffle:
        random.Random(seed).shuffle(order)
    return Mixture(parts, order, num_taken)
