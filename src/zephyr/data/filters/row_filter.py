"""What a filter is: a function that keeps a row, changes it, or drops it for a reason; and the texts of a row."""

from collections.abc import Callable
from typing import NamedTuple

from zephyr.records.messages import Messages
from zephyr.records.rows import Answer, Chat, Preference, Prompt, Rated, Record, Text


class Verdict(NamedTuple):
    """The outcome for a row: the same object if kept, another one if changed, None if dropped."""

    record: Record | None
    reason: str = ""
    evidence: str = ""


class RowFilter(NamedTuple):
    """A filter by its name in recipes and reports, its function, and notes for the report.

    `judge` takes rows in the order they come. It may remember those it has seen, so each pass over data needs a new
    filter.
    """

    name: str
    judge: Callable[[Record], Verdict]
    notes: tuple[str, ...] = ()


class TextFault(NamedTuple):
    """Why a text is removed."""

    reason: str
    evidence: str = ""


def context(record: Record) -> Messages:
    """The messages before the answers; for a dialogue, all messages."""
    match record:
        case Text():
            return ()
        case Chat() | Prompt():
            return record.messages
        case _:
            return record.prompt


def candidates(record: Record) -> tuple[str, ...]:
    """The texts after the context: completions, rated answers, or the plain text."""
    match record:
        case Text():
            return (record.text,)
        case Rated():
            return tuple(answer.text for answer in record.answers)
        case Preference():
            return record.completions
        case _:
            return ()


def all_texts(record: Record) -> tuple[str, ...]:
    """Every text of the row, in order."""
    return (*(message.content for message in context(record)), *candidates(record))


def with_texts(record: Record, change: Callable[[str], str]) -> Record:
    """`record` with `change` applied to each of its texts; the same object if none of them changes."""
    before = all_texts(record)
    after = tuple(map(change, before))
    if after == before:
        return record
    messages = tuple(message._replace(content=text) for message, text in zip(context(record), after, strict=False))
    rest = after[len(messages) :]
    match record:
        case Text():
            return record._replace(text=rest[0])
        case Chat() | Prompt():
            return record._replace(messages=messages)
        case Rated():
            answers = (answer._replace(text=text) for answer, text in zip(record.answers, rest, strict=True))
            return record._replace(prompt=messages, answers=tuple(answers))
        case Preference():
            return record._replace(prompt=messages, completions=rest)


def without_faulty_answers(record: Rated, fault_of: Callable[[Answer], TextFault | None]) -> Verdict:
    """`record` without the answers that have a fault; dropped if no answer is left."""
    kept = []
    found = None
    for answer in record.answers:
        fault = fault_of(answer)
        found = found or fault
        if fault is None:
            kept.append(answer)
    if found is None:
        return Verdict(record)
    return Verdict(record._replace(answers=tuple(kept)) if kept else None, found.reason, found.evidence)
