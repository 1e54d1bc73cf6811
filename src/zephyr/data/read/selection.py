"""The `split`, `where` and `columns` of a source: which rows it has, and what its fields are called.

A split is written `train`, `test[:10%]` or `train[100:200]`. As in the datasets library, a percentage is rounded to the
nearest row and a negative bound counts from the end.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from zephyr.errors import DataError, did_you_mean
from zephyr.records.fields import Fields, Json, Row, RowFault, brief, listed, printable

_SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?P<slice>\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", re.ASCII)


class Bound(NamedTuple):
    """A bound of a slice: a number of rows, or a percentage of them."""

    number: int
    is_share: bool

    def row(self, num_rows: int) -> int:
        """The row number this is among `num_rows`."""
        row = round(self.number * num_rows / 100) if self.is_share else self.number
        return min(max(row + num_rows if row < 0 else row, 0), num_rows)


class SplitSlice(NamedTuple):
    """A named split of a source, and a slice of its rows; None is an open bound."""

    name: str
    start: Bound | None
    stop: Bound | None

    @property
    def needs_count(self) -> bool:
        """Whether the slice depends on the number of rows."""
        return any(bound is not None and (bound.is_share or bound.number < 0) for bound in (self.start, self.stop))

    def rows(self, num_rows: int) -> range:
        """The row numbers of the slice among `num_rows`, from 0."""
        start = 0 if self.start is None else self.start.row(num_rows)
        return range(start, num_rows if self.stop is None else self.stop.row(num_rows))


def parse_split(text: str, where: str) -> SplitSlice:
    """The split written as `text`. Raises DataError at `where` if it is not one."""
    found = _SPLIT.fullmatch(text.strip())
    if found is None:
        remedy = "write train, train[:10%] or train[100:200]; give two sources for two splits"
        raise DataError(where, f"is not a split of rows, got {brief(text)}", remedy)
    split = SplitSlice(found["name"], _bound(found["start"]), _bound(found["stop"]))
    too_large = [
        bound for bound in split[1:] if isinstance(bound, Bound) and bound.is_share and abs(bound.number) > 100
    ]
    if too_large:
        raise DataError(where, f"has a split beyond 100%, got {brief(text)}", "give at most 100%")
    return split


def _bound(text: str | None) -> Bound | None:
    return None if text is None else Bound(int(text.removesuffix("%")), text.endswith("%"))


class _Missing:
    """The value of a field that a row does not have."""


_MISSING = _Missing()


def renamed(row: Row, columns: Mapping[str, str]) -> Row | RowFault:
    """The row with its fields renamed, or a fault if a field is missing; a dotted name is a path: `turns.0.content`."""
    if not columns:
        return row
    found = {ours: _lookup(row.fields, theirs) for ours, theirs in columns.items()}
    missing = [columns[ours] for ours, value in found.items() if isinstance(value, _Missing)]
    if missing:
        hint = did_you_mean(missing[0], (printable(name) for name in row.fields))
        return RowFault(row.name, "no such field", f"has no field {listed(missing)}, named in columns{hint}")
    taken = {theirs.split(".")[0] if theirs not in row.fields else theirs for theirs in columns.values()}
    kept = {name: value for name, value in row.fields.items() if name not in taken}
    return Row(row.name, kept | {ours: value for ours, value in found.items() if not isinstance(value, _Missing)})


def without(row: Row, ignored: Collection[str]) -> Row:
    """The row without the fields of these names, and without the keys of its messages: `messages.weight`."""
    if not ignored:
        return row
    keys = [name.partition(".") for name in ignored]
    fields = {name: value for name, value in row.fields.items() if name not in ignored}
    for column, _, key in keys:
        value = fields.get(column)
        if key and isinstance(value, list):
            fields[column] = [_without_key(item, key) for item in value]
    return Row(row.name, fields)


def _without_key(item: Json, key: str) -> Json:
    return {name: value for name, value in item.items() if name != key} if isinstance(item, dict) else item


def unwanted(fields: Fields, where: Mapping[str, str]) -> str:
    """Why the row is not one of those asked for, empty if it is.

    Booleans and null are written true, false, null, in any case; numbers in any form.
    """
    for name, value in where.items():
        found = _lookup(fields, name)
        if isinstance(found, _Missing):
            return f"no field {printable(name)}"
        if not _is_written(found, value):
            return f"not {printable(name)}: {printable(value)}"
    return ""


def _is_written(found: Json, value: str) -> bool:
    text = "null" if found is None else str(found)
    if text == value or (text.lower() in {"true", "false", "null"} and text.lower() == value.lower()):
        return True
    try:
        return isinstance(found, int | float) and not isinstance(found, bool) and float(value) == found
    except ValueError:
        return False


def _lookup(value: Fields | Json, path: str) -> Json | _Missing:
    if isinstance(value, Mapping) and path in value:
        return value[path]
    first, dot, rest = path.partition(".")
    if isinstance(value, Mapping):
        found: Json | _Missing = value.get(first, _MISSING)
    elif isinstance(value, list) and first.isdecimal() and int(first) < len(value):
        found = value[int(first)]
    else:
        found = _MISSING
    if not dot or isinstance(found, _Missing):
        return found
    return _lookup(found, rest)
