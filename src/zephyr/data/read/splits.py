"""The split of a source, as `train`, `test[:10%]` or `train[100:200]`, and the rows it means.

As in the datasets library: a percentage is rounded to the nearest row, a negative bound counts from the end.
"""

import re
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.records.fields import show

_SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?P<slice>\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", re.ASCII)


class Bound(NamedTuple):
    """An end of a slice: a number of rows, or a percentage of them."""

    number: int
    is_share: bool

    def row(self, num_rows: int) -> int:
        """The row this means among `num_rows`."""
        row = round(self.number * num_rows / 100) if self.is_share else self.number
        return min(max(row + num_rows if row < 0 else row, 0), num_rows)


class Split(NamedTuple):
    """A named part of a source, and a slice of its rows; bounds that are None are open."""

    name: str
    start: Bound | None
    stop: Bound | None

    @property
    def needs_count(self) -> bool:
        """Whether the rows must be counted before it is known which are meant."""
        return any(bound is not None and (bound.is_share or bound.number < 0) for bound in (self.start, self.stop))

    def rows(self, num_rows: int) -> range:
        """The rows meant, among `num_rows`, counted from 0."""
        start = 0 if self.start is None else self.start.row(num_rows)
        return range(start, num_rows if self.stop is None else self.stop.row(num_rows))


def parse_split(text: str, where: str) -> Split:
    """The split that a text means; a DataError names `where` it stands."""
    found = _SPLIT.fullmatch(text.strip())
    if found is None:
        remedy = "write train, train[:10%] or train[100:200]; for two splits give two sources"
        raise DataError(where, f"has no split of rows, got {show(text)}", remedy)
    split = Split(found["name"], _bound(found["start"]), _bound(found["stop"]))
    too_large = [
        bound for bound in split[1:] if isinstance(bound, Bound) and bound.is_share and abs(bound.number) > 100
    ]
    if too_large:
        raise DataError(where, f"has a split beyond 100 %, got {show(text)}", "choose a share of at most 100 %")
    return split


def _bound(text: str | None) -> Bound | None:
    return None if text is None else Bound(int(text.removesuffix("%")), text.endswith("%"))
