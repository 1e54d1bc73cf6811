"""A row as it was read, and readers of its fields: texts, scores, labels.

An unusable row becomes a RowFault; inside a conversion, an UnusableError.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from zephyr.records.messages import MessageFault

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Fields = Mapping[str, Json]

SHOWN_CHARACTERS = 80
SHOWN_FAULTS = 5
_NO_SCORE = frozenset({"", "n/a", "na", "none", "null"})
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class Row(NamedTuple):
    """A row, named by file and number (from 1; of JSONL and text files the number of the line)."""

    name: str
    fields: Mapping[str, Json]


class RowFault(NamedTuple):
    """Why a row cannot be used: a short reason to count by, the full message, and what to do, if there is a way."""

    name: str
    reason: str
    what: str
    remedy: str = ""


def brief(value: object) -> str:
    """A value for a message: on one line, without control characters, cut at 80 characters."""
    # Cut first: building the representation of megabytes of text would be wasted.
    try:
        text = repr(value[: 2 * SHOWN_CHARACTERS]) if isinstance(value, str) else printable(repr(value))
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def printable(text: str) -> str:
    """The text with control characters and unencodable characters escaped, safe for a message."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(names: Iterable[str], *, most: int = 12) -> str:
    """Names separated by commas; at most `most` of them, then the number of the others."""
    names = [printable(name)[:SHOWN_CHARACTERS] for name in names]
    tail = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + tail) or "none"


class UnusableError(Exception):
    """All faults of a row; caught where rows are converted."""

    def __init__(self, faults: Sequence[MessageFault]) -> None:
        super().__init__(faults)
        self.faults = tuple(faults)


def unusable(reason: str, what: str) -> UnusableError:
    """The exception for one fault."""
    return UnusableError([MessageFault(reason, what)])


def first_of(fields: Fields, names: Sequence[str]) -> str:
    """The first of these names that is a field of the row. Raises UnusableError if none is."""
    for name in names:
        if name in fields:
            return name
    raise unusable(f"no {names[0]}", f"has no field {' or '.join(names)}")


def text_of(value: Json, what: str) -> str:
    """The text. Raises UnusableError about `what` if it is not a text."""
    if value is None:
        raise unusable(f"null {what}", f"the {what} is null or missing")
    if not isinstance(value, str):
        raise unusable(f"{what} is no text", f"the {what} is no text, got {brief(value)}")
    return value


def filled_text(value: Json, what: str) -> str:
    """The text. Raises UnusableError if it is empty or not a text."""
    text = text_of(value, what)
    if not text.strip():
        raise unusable(f"empty {what}", f"the {what} is empty")
    return text


def optional_text(fields: Fields, name: str) -> str:
    """The text of a field that may be absent, null or empty. Raises UnusableError for other values."""
    value = fields.get(name)
    return "" if value is None else text_of(value, name)


def number_of(value: Json, what: str = "score") -> float | None:
    """The number, also if written as text; None for null and N/A. Raises UnusableError for other values."""
    if value is None or is_no_score(value):
        return None
    try:
        # float() would take true for 1.
        score = math.nan if isinstance(value, bool | list | dict) else float(value)
    except (ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise unusable(f"{what} is no number", f"the {what} is no finite number, got {brief(value)}")
    return score


def is_no_score(value: Json) -> bool:
    """Whether the value means that there is no number: null, or a text such as N/A."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _NO_SCORE)


def label_of(value: Json) -> bool:
    """A boolean label, also written as 1 and 0 or as text. Raises UnusableError for other values."""
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise unusable("label is not true or false", f"the label is not true or false, got {brief(value)}")
    return label
