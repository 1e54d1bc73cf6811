"""Bytes and lines of a file, plain or gzipped; lines that are too long are never held in memory."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from zephyr.errors import DataError

MAX_ROW_BYTES = 16 << 20
BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TextLine(NamedTuple):
    """A line without its line break; `content` is None if it is too long for a row."""

    number: int
    content: bytes | None
    has_end: bool


@contextmanager
def opened(path: Path, name: str, *, unpack: bool = True) -> Iterator[BinaryIO]:
    """The file opened to read bytes, decompressed if named .gz. Raises DataError for errors of disk or gzip."""
    try:
        if unpack and path.suffix.lower() == ".gz":
            with _unpacked(path) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except EOFError as error:
        remedy = "download or compress the file again; none of its rows is used, since an unknown number is lost"
        raise DataError(name, "the gzip file is truncated", remedy) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        remedy = "download or compress the file again, or remove .gz from its name if it is not compressed"
        raise DataError(name, f"cannot be decompressed ({error})", remedy) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(name, f"cannot be read ({reason})", "check the file, its permissions and its disk") from error


def _unpacked(path: Path) -> BinaryIO:
    if path.stat().st_size == 0:  # gzip reads a file without a header as an empty text.
        raise EOFError
    return cast("BinaryIO", gzip.open(path, "rb"))


def lines_of(file: BinaryIO) -> Iterator[TextLine]:
    """The lines of a file, numbered from 1."""
    number = 0
    while content := file.readline(MAX_ROW_BYTES + 2):
        number += 1
        if number == 1:
            content = content.removeprefix(_BYTE_ORDER_MARK)
        has_end = content.endswith(b"\n")
        content = content.rstrip(b"\r\n") if has_end else content
        if len(content) <= MAX_ROW_BYTES:
            yield TextLine(number, content, has_end)
        else:
            yield TextLine(number, None, has_end or _skip_line(file))


def _skip_line(file: BinaryIO) -> bool:
    """Skip the rest of a line; returns whether it ends in a newline."""
    while block := file.readline(BLOCK_BYTES):
        if block.endswith(b"\n"):
            return True
    return False


def too_long() -> str:
    """The message for a row that was not read because of its length."""
    return f"is longer than {MAX_ROW_BYTES >> 20} MB, the most a row may have"
