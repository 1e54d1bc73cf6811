"""Rows of plain text files: pieces of up to 4,000 characters, split between paragraphs where possible."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zephyr.records.fields import Row, RowFault
from zephyr.records.json_files import not_utf8
from zephyr.records.lines import TextLine, lines_of, opened, too_long

# Long enough to fill a model's context, short enough for one training row.
PIECE_CHARACTERS = 4_000
# The line between two texts of one file, as in TinyStories.
SEPARATOR = "<|endoftext|>"
# Hard-wrapped prose: every line but the last of a paragraph is about as wide as a page.
_WRAPPED_WIDTH = range(45, 90)


class _Part(NamedTuple):
    """A paragraph and its first line number; without text, the boundary between two texts."""

    number: int
    text: str


def read_text(path: Path, name: str) -> Iterator[Row | RowFault]:
    """The pieces of a text, each with the number of its first line and one field, `text`.

    Paragraphs are joined up to 4,000 characters; a line `<|endoftext|>` ends a piece. The lines of a hard-wrapped
    paragraph are joined, and longer paragraphs are split at spaces.
    """
    held: list[_Part] = []
    for part in _parts(path, name):
        if isinstance(part, RowFault):
            yield part
            continue
        length = sum(len(other.text) + 2 for other in held) + len(part.text)
        if held and (not part.text or length > PIECE_CHARACTERS):
            yield _piece(held, name)
            held = []
        if part.text:
            held.append(part)
    if held:
        yield _piece(held, name)


def _piece(parts: list[_Part], name: str) -> Row:
    return Row(f"{name} row {parts[0].number}", {"text": "\n\n".join(part.text for part in parts)})


def _parts(path: Path, name: str) -> Iterator[_Part | RowFault]:
    """The paragraphs of a file, none longer than a piece."""
    lines: list[str] = []
    start = 1
    with opened(path, name) as file:
        for line in lines_of(file):
            text = _decoded(line, name)
            if isinstance(text, RowFault):
                yield text
                continue
            is_full = sum(map(len, lines)) + len(text) > PIECE_CHARACTERS
            if lines and (is_full or not text or text == SEPARATOR):
                yield _Part(start, _unwrapped(lines))
                lines = []
            if text == SEPARATOR:
                yield _Part(line.number, "")
            elif len(text) > PIECE_CHARACTERS:
                yield from (_Part(line.number, piece) for piece in _cut(text))
            elif text:
                start = start if lines else line.number
                lines.append(text)
    if lines:
        yield _Part(start, _unwrapped(lines))


def _decoded(line: TextLine, name: str) -> str | RowFault:
    row = f"{name} row {line.number}"
    if line.content is None:
        return RowFault(row, "row too long", too_long())
    try:
        return line.content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return RowFault(row, "not UTF-8", not_utf8(line.content[error.start], error.start + 1))


def _unwrapped(lines: list[str]) -> str:
    is_wrapped = len(lines) > 1 and all(len(line) in _WRAPPED_WIDTH for line in lines[:-1])
    return (" " if is_wrapped else "\n").join(lines)


def _cut(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end < len(text):
            space = text.rfind(" ", start + 1, end)
            end = space if space > start else end
        piece = text[start:end].strip()
        if piece:
            yield piece
        start = end
