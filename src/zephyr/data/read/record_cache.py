"""Records in an unnamed temporary file, to be read again in any order without keeping their texts in memory."""

import errno
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator
from heapq import nlargest
from typing import Generic, TypeVar, cast

from zephyr.errors import ResourceError
from zephyr.records.fields import Json
from zephyr.records.messages import Message, Messages, Role, TemplateInputs, ToolCall
from zephyr.records.rows import Answer, Chat, Check, Preference, Prompt, Rated, Record, RecordKind, Text

_R = TypeVar("_R", bound=Record)
# As JSON has them: the fields of a message, of its calls.
_Call = tuple[str, str, str]
_Parts = tuple[Role, str, str, list[_Call], str, str, bool]


class RecordCache(Generic[_R]):
    """An append-only sequence of records of one kind; deleted with the last reference to it."""

    def __init__(self, kind: RecordKind) -> None:
        self.kind = kind
        # No `with`: the file lives as long as the cache. It has no name, so nothing is left if the process dies.
        self._file = tempfile.TemporaryFile(prefix="zephyr-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])
        self._is_flushed = True

    def append(self, record: _R) -> None:
        """Append the record. Raises ResourceError if it cannot be written."""
        content = json.dumps(record, ensure_ascii=False).encode()
        try:
            self._file.write(content)
        except OSError as error:
            raise _disk_error(error) from error
        self._ends.append(self._ends[-1] + len(content))
        self._is_flushed = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[_R]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> _R:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if not self._is_flushed:
            self._flush()
        start, end = self._ends[index], self._ends[index + 1]
        # Not seek and read: forked processes share the position in a file.
        content = os.pread(self._file.fileno(), end - start, start)
        return cast("_R", _record(self.kind, content))

    def largest(self, count: int) -> list[int]:
        """The indices of the `count` largest records in bytes, largest first."""
        return nlargest(count, range(len(self)), key=lambda index: self._ends[index + 1] - self._ends[index])

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise _disk_error(error) from error
        self._is_flushed = True


def _disk_error(error: OSError) -> ResourceError:
    what = "is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else f"cannot be written ({error.strerror})"
    return ResourceError(tempfile.gettempdir(), what, "free some space, or name another folder in TMPDIR")


def _messages(parts: list[_Parts]) -> Messages:
    return tuple(Message(*one[:3], _calls(one[3]), *one[4:]) for one in parts)


def _calls(calls: list[_Call]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(*call) for call in calls)


def _checks(checks: list[tuple[str, dict[str, Json]]]) -> tuple[Check, ...]:
    return tuple(Check(*check) for check in checks)


def _record(kind: RecordKind, content: bytes) -> Record:
    """The record whose fields were written as a JSON array."""
    name, *values = json.loads(content)
    match kind:
        case "text":
            return Text(name, *values)
        case "chat":
            return Chat(name, _messages(values[0]), values[1], TemplateInputs(*values[2]))
        case "prompt":
            messages, source, knowledge, checks = values
            return Prompt(name, _messages(messages), source, knowledge, _checks(checks))
        case "rated":
            prompt, answers, source, knowledge, checks = values
            rated = tuple(Answer(*answer) for answer in answers)
            return Rated(name, _messages(prompt), rated, source, knowledge, _checks(checks))
        case "preference":
            completions, ratings, source, models, rule, inputs, reasoning, calls = values[1:]
            return Preference(
                name,
                _messages(values[0]),
                tuple(completions),
                tuple(ratings),
                source,
                tuple(models),
                rule,
                TemplateInputs(*inputs),
                tuple(reasoning),
                tuple(map(_calls, calls)),
            )
