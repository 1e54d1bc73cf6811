"""A row as it was read: its name and fields, or what is wrong with it; and values in words.

What the fields mean is told in shapes.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

SHOWN_CHARACTERS = 80
SHOWN_FAULTS = 5


class Row(NamedTuple):
    """A row, named by file and number (from 1; of JSONL and text files the number of the line)."""

    name: str
    fields: Mapping[str, Json]


class Fault(NamedTuple):
    """Why a row cannot be used: a reason by which faults are counted, and the full words."""

    name: str
    reason: str
    what: str


def show(value: object) -> str:
    """A value for a message: on one line, without control characters, cut at 80 characters."""
    # The cut comes first as well: the representation of a text of megabytes would be built in vain.
    try:
        text = repr(value[: 2 * SHOWN_CHARACTERS]) if isinstance(value, str) else printable(repr(value))
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def printable(text: str) -> str:
    """A name for a message: what could steer a terminal, or cannot be encoded, is written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(names: Iterable[str], *, most: int = 12) -> str:
    """Names separated by commas; of more than `most` the first, and how many follow."""
    names = [printable(name)[:SHOWN_CHARACTERS] for name in names]
    tail = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + tail) or "none"
