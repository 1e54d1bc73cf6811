"""Fields under our names, and the choice of rows by a field's value, as `columns` and `where` of a source say."""

from collections.abc import Mapping

from zephyr.errors import did_you_mean
from zephyr.records.fields import Fault, Json, Row, listed, printable
from zephyr.records.values import Fields


class _Missing:
    """The mark of a field that a row does not have."""


_MISSING = _Missing()


def renamed(row: Row, columns: Mapping[str, str]) -> Row | Fault:
    """The row with our name of a field for theirs; a name with dots leads into lists and objects: `turns.0.content`."""
    if not columns:
        return row
    found = {ours: _lookup(row.fields, theirs) for ours, theirs in columns.items()}
    missing = [columns[ours] for ours, value in found.items() if isinstance(value, _Missing)]
    if missing:
        hint = did_you_mean(missing[0], (printable(name) for name in row.fields))
        return Fault(row.name, "no such field", f"has no field {listed(missing)}, which columns names{hint}")
    taken = {theirs.split(".")[0] if theirs not in row.fields else theirs for theirs in columns.values()}
    kept = {name: value for name, value in row.fields.items() if name not in taken}
    return Row(row.name, kept | {ours: value for ours, value in found.items() if not isinstance(value, _Missing)})


def is_wanted(fields: Fields, where: Mapping[str, str]) -> bool:
    """Whether every field has the value that is asked for; true, false and null are written so."""
    return all(_written(_lookup(fields, name)) == value for name, value in where.items())


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


def _written(value: Json | _Missing) -> str | None:
    if isinstance(value, _Missing):
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
