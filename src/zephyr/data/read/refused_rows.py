"""Rows that a stage cannot use, counted by source; dropped or refused, as the source says.

They are valid records, which a chat template or tokenizer cannot encode, or a judge cannot rate, so that they show only
after the sources are mixed and filtered.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from zephyr.data.read.sources import Records
from zephyr.errors import DataError, Problems
from zephyr.recipe.data_section import DataSource
from zephyr.records.fields import SHOWN_FAULTS, RowFault, UnusableError, printable
from zephyr.records.rows import Record

_R = TypeVar("_R", bound=Record)

REMEDY = "fix the data, choose another chat_template, or set bad_rows: drop, which skips such rows and counts them"


class _Refused(NamedTuple):
    """The refused rows of a source: the first of them, and all by reason."""

    source: DataSource
    faults: list[RowFault]
    reasons: Counter[str]


class RefusedRows:
    """The refused rows of a stage, by the path of their source."""

    def __init__(self) -> None:
        self._opened: list[Records[Record]] = []
        self._refused: dict[int, _Refused] = {}

    def read(self, records: Records[_R]) -> None:
        """Note the records of a source, whose rows may be refused later."""
        self._opened.append(records)  # type: ignore[arg-type]  # they are only asked for their files

    def add(self, row: Record, error: UnusableError) -> tuple[DataSource, str]:
        """The source of a row that cannot be encoded and the reason, under which the row is now counted."""
        number = self._source_of(row)
        source = self._opened[number].source
        refused = self._refused.setdefault(number, _Refused(source, [], Counter()))
        reason = "; ".join(fault.reason for fault in error.faults)
        refused.reasons[reason] += 1
        if len(refused.faults) < SHOWN_FAULTS:
            refused.faults.append(RowFault(row.name, reason, "; ".join(fault.what for fault in error.faults)))
        return source, reason

    def dropped(self) -> Iterator[tuple[DataSource, Counter[str]]]:
        """The sources whose refused rows are dropped, with the numbers of these rows by reason."""
        for one in self._refused.values():
            if one.source.bad_rows == "drop":
                yield one.source, one.reasons

    def check(self) -> None:
        """Raise one DataError for all rows that were refused and may not be dropped."""
        problems = Problems()
        for one in self._refused.values():
            if one.source.bad_rows == "stop":
                with problems.noted():
                    raise _error(one)
        problems.raise_any()

    def _source_of(self, row: Record) -> int:
        """The number of the source that a row is from; of sources with files of one name, one that must not drop it."""
        named = [number for number, one in enumerate(self._opened) if _may_hold(one, row.name)]
        paths = [number for number in named if printable(self._opened[number].source.path) == row.source]
        found = paths or named or range(len(self._opened))
        return min(found, key=lambda number: self._opened[number].source.bad_rows != "stop")


def encodable(
    rows: Iterable[_R], encode: Callable[[_R], object], refuse: Callable[[Record, UnusableError], object]
) -> Iterator[_R]:
    """The rows that `encode` can encode; the others are given to `refuse`."""
    for row in rows:
        try:
            encode(row)
        except UnusableError as error:
            refuse(row, error)
        else:
            yield row


def _may_hold(records: Records[Record], name: str) -> bool:
    files = [Path(file).name if file else records.source.path for file in records.shapes]
    return any(name.startswith(f"{printable(file)} row ") for file in files)


def _error(refused: _Refused) -> DataError:
    """The error for rows of a source that may not be dropped."""
    num_rows = refused.reasons.total()
    if num_rows == 1:
        return DataError(refused.faults[0].name, refused.faults[0].what, REMEDY)
    counted = ", ".join(f"{count:,} x {reason}" for reason, count in refused.reasons.most_common())
    said = "; ".join(f"{fault.name}: {fault.what}" for fault in refused.faults)
    more = f"; and {num_rows - len(refused.faults):,} more" if num_rows > len(refused.faults) else ""
    what = f"{num_rows:,} rows cannot be used ({counted}): {said}{more}"
    return DataError(printable(refused.source.path), what, REMEDY)
