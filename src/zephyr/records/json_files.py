"""Rows of JSONL and JSON files, streamed: a file may be larger than memory."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from zephyr.errors import DataError
from zephyr.records.fields import Json, Row, RowFault, brief, listed
from zephyr.records.lines import BLOCK_BYTES, MAX_ROW_BYTES, TextLine, lines_of, opened, too_long

# An object that contains a list must be read whole.
MAX_OBJECT_BYTES = 1 << 30
_SPACE = " \t\r\n"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl_rows(path: Path, name: str) -> Iterator[Row | RowFault]:
    """The rows of a file with one JSON object a line; empty lines are skipped."""
    with opened(path, name) as file:
        for line in lines_of(file):
            if line.content is None or line.content.strip():
                yield _line_row(line, f"{name} row {line.number}")


def read_json_rows(path: Path, name: str) -> Iterator[Row | RowFault]:
    """The rows of a JSON file: an array of objects, one object of all rows, or JSON lines despite the name.

    An object may hold such an array, or its rows under their names ({"0": {...}}), or its columns as lists or as pandas
    writes them ({"prompt": {"0": ...}}).
    """
    if _Characters.first(path, name) == "[":
        yield from _array_rows(path, name)
    elif _is_lines(path, name):
        yield from read_jsonl_rows(path, name)
    else:
        yield from _object_rows(path, name)


def _line_row(line: TextLine, name: str) -> Row | RowFault:
    if line.content is None:
        return RowFault(name, "row too long", too_long())
    try:
        text = line.content.decode("utf-8")
    except UnicodeDecodeError as error:
        return RowFault(name, "not UTF-8", not_utf8(line.content[error.start], error.start + 1))
    value = _parse(text)
    if isinstance(value, Unparsed) and not line.has_end:
        return RowFault(
            name, "torn last line", "the last line is cut off: no whole JSON object, and no newline after it"
        )
    return _checked(value, text, name)


def not_utf8(byte: int, position: int) -> str:
    """The message for a byte that is not UTF-8, at a position from 1."""
    return f"byte {position} (0x{byte:02x}) is not UTF-8; convert the file, for example with iconv -t UTF-8"


class Unparsed(str):
    """Why a text is not JSON."""

    __slots__ = ()


def _parse(text: str) -> Json | Unparsed:
    try:
        return cast("Json", json.loads(text))
    except json.JSONDecodeError as error:
        return Unparsed(f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Unparsed("nested too deeply")
    except ValueError as error:  # A number of more digits than Python reads.
        return Unparsed(str(error))


def _checked(value: Json | Unparsed, text: str, name: str) -> Row | RowFault:
    """The row, if it is an object of encodable texts; `text` is its source."""
    if isinstance(value, Unparsed):
        return RowFault(name, "not JSON", f"is not JSON ({value}), got {brief(text)}")
    if not isinstance(value, dict):
        return RowFault(name, "not an object", f"is not an object of fields, got {brief(value)}")
    if _SURROGATE_ESCAPE.search(text):
        try:
            plain = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            return RowFault(name, "nested too deeply", "is nested too deeply")
        if _SURROGATE.search(plain):
            return RowFault(name, "half a character", "holds half a character (a lone surrogate), which is not Unicode")
    return Row(name, value)


def _is_lines(path: Path, name: str) -> bool:
    """Whether the first non-empty line is a complete object and another line follows."""
    with opened(path, name) as file:
        full = (line for line in lines_of(file) if line.content is None or line.content.strip())
        first = next(full, None)
        if first is None or first.content is None or next(full, None) is None:
            return False
    return isinstance(_parse(first.content.decode("utf-8", "replace")), dict)


def _object_rows(path: Path, name: str) -> Iterator[Row | RowFault]:
    with opened(path, name) as file:
        content = file.read(MAX_OBJECT_BYTES + 1)
    if len(content) > MAX_OBJECT_BYTES:
        raise DataError(name, "is one JSON object of more than 1 GB", "write its rows as JSONL, one object a line")
    if not content.strip():
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = not_utf8(content[error.start], error.start + 1)
        raise DataError(name, what, "the file cannot be read otherwise") from error
    value = _parse(text)
    if not isinstance(value, dict):
        what = f"is not JSON ({value})" if isinstance(value, Unparsed) else f"holds no rows, got {brief(value)}"
        raise DataError(name, what, "write an array of objects, or one object a line in a file named .jsonl")
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list) and _are_objects(rows)}
    # An object with messages is a row itself, not a list of rows that are messages.
    if not lists or "messages" in lists or "conversations" in lists:
        rows = _named_rows(value) or _rows_of_columns(value)
        if rows is None:
            yield _checked(value, text, f"{name} row 1")
        for number, row in enumerate(rows or (), 1):
            yield _checked(row, text, f"{name} row {number}")
    elif len(lists) == 1:
        for number, row in enumerate(next(iter(lists.values())), 1):
            yield _checked(row, text, f"{name} row {number}")
    else:
        remedy = "leave one list of rows in the file, or write the rows as JSONL"
        raise DataError(name, f"holds several lists of rows ({listed(lists)})", remedy)


def _named_rows(value: dict[str, Json]) -> list[Json] | None:
    """The rows of an object of rows with names or numbers, all of the same fields; None for any other object."""
    rows = [row for row in value.values() if isinstance(row, dict) and row]
    if len(rows) != len(value) or all(key.isdecimal() for row in rows for key in row):
        return None
    are_numbered = all(key.isdecimal() for key in value)
    are_alike = len(rows) > 1 and all(row.keys() == rows[0].keys() for row in rows)
    is_message = any(key in row for row in rows for key in ("role", "from"))
    return list(rows) if are_numbered or (are_alike and not is_message) else None


def _rows_of_columns(value: dict[str, Json]) -> list[Json] | None:
    """The rows of an object of columns: lists of one length, or objects of the same numbers; None for any other."""
    columns: list[list[Json]] = []
    for column in value.values():
        if isinstance(column, dict) and column and all(key.isdecimal() for key in column):
            columns.append(list(column.values()))
        elif isinstance(column, list) and not _are_objects(column):
            columns.append(column)
    are_objects = {type(column) for column in value.values()} == {dict}
    same_names = not are_objects or len({tuple(column) for column in value.values() if isinstance(column, dict)}) == 1
    if len(columns) != len(value) or len({len(column) for column in columns}) != 1 or not same_names:
        return None
    return [dict(zip(value, fields, strict=True)) for fields in zip(*columns, strict=True)]


def _are_objects(rows: list[Json]) -> bool:
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _array_rows(path: Path, name: str) -> Iterator[Row | RowFault]:
    with opened(path, name) as file:
        stream = _Characters(file, name)
        stream.skip("[")
        if stream.peek() == "]":
            stream.skip("]")
        else:
            yield from _elements(stream, name)
        if stream.peek():
            remedy = "leave one array in the file, or name it .jsonl if each line is a row"
            raise DataError(name, f"has text after the array: {brief(stream.peek())}", remedy)


def _elements(stream: "_Characters", name: str) -> Iterator[Row | RowFault]:
    number = 0
    while True:
        number += 1
        value, text = stream.element(f"{name} row {number}")
        if _SURROGATE.search(text):
            what = "holds bytes that are not UTF-8; convert the file, for example with iconv -t UTF-8"
            yield RowFault(f"{name} row {number}", "not UTF-8", what)
        else:
            yield _checked(value, text, f"{name} row {number}")
        if stream.peek() == "]":
            stream.skip("]")
            return
        stream.skip(",", after=f"{name} row {number}")


class _Characters:
    """The characters of a JSON file; at most one row and one block are in memory."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        # Bytes that are not UTF-8 become lone surrogates, and so a fault of their row alone.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._window = ""
        self._place = 0
        self._is_over = False
        self._more(BLOCK_BYTES)
        self._window = self._window.removeprefix("\ufeff")

    @classmethod
    def first(cls, path: Path, name: str) -> str:
        """The first character of a file that is not white space."""
        with opened(path, name) as file:
            return cls(file, name).peek()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            while self._place < len(self._window):
                char = self._window[self._place]
                if char not in _SPACE:
                    return char
                self._place += 1
            if self._is_over:
                return ""
            self._more(BLOCK_BYTES)

    def skip(self, char: str, *, after: str = "") -> None:
        """Skip this character. Raises DataError if the next one is another."""
        found = self.peek()
        if found != char:
            what = f"ends where '{char}' is expected" if not found else f"has {brief(found)} where '{char}' is expected"
            where = f"{self._name}, after {after}" if after else self._name
            raise DataError(where, f"the JSON {what}", "fix the file, or download it again")
        self._place += 1

    def element(self, name: str) -> tuple[Json, str]:
        """The next value of the array, and its text. Raises DataError if it is not JSON."""
        self.peek()
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self._window, self._place)
            except RecursionError as error:
                raise DataError(name, "is nested too deeply", "remove the row from the file") from error
            except ValueError as error:
                # The error's position is in the window, not in the file.
                self._widen(name, error.msg if isinstance(error, json.JSONDecodeError) else str(error))
                continue
            # A number at the end of the window may continue after it.
            if end == len(self._window) and not self._is_over:
                self._more(BLOCK_BYTES)
                continue
            text = self._window[self._place : end]
            self._place = end
            return cast("Json", value), text

    def _widen(self, name: str, problem: str) -> None:
        held = len(self._window) - self._place
        if self._is_over:
            what = "is cut off" if not self._window[self._place :].strip() else f"is not JSON, or cut off ({problem})"
            raise DataError(name, what, "fix the file, or download it again")
        if held > MAX_ROW_BYTES:
            raise DataError(name, f"is not JSON ({problem}), or {too_long()}", "fix the row or remove it")
        self._more(max(BLOCK_BYTES, held))

    def _more(self, num_bytes: int) -> None:
        block = self._file.read(num_bytes)
        self._is_over = not block
        self._window = self._window[self._place :] + self._decoder.decode(block, final=self._is_over)
        self._place = 0
