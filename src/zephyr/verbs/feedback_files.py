"""The files that the verbs of feedback read and write."""

from pathlib import Path
from typing import Literal, cast, get_args, overload

from zephyr.data.sources import Records, Source, open_source
from zephyr.errors import DataError, did_you_mean
from zephyr.records.fields import printable
from zephyr.records.rows import Prompt, Rated
from zephyr.records.shapes import Shape

WRITTEN = ".jsonl"


@overload
def open_rows(
    path: str, kind: Literal["rated"], *, shape: str, bad_rows: Literal["stop", "drop"], offline: bool
) -> Records[Rated]: ...
@overload
def open_rows(
    path: str, kind: Literal["prompt"], *, shape: str, bad_rows: Literal["stop", "drop"], offline: bool
) -> Records[Prompt]: ...
def open_rows(
    path: str, kind: Literal["rated", "prompt"], *, shape: str, bad_rows: Literal["stop", "drop"], offline: bool
) -> Records[Rated] | Records[Prompt]:
    """The records of a file, folder, glob or hub id, as a user names it."""
    if shape not in ("auto", *get_args(Shape)):
        raise DataError("--shape", f"there is no shape, got '{printable(shape)}'", _known_shapes(shape))
    source = Source(path, shape=cast("Shape", shape), bad_rows=bad_rows)
    if kind == "rated":
        return open_source(source, "rated", data_dir=Path(), offline=offline)
    return open_source(source, "prompt", data_dir=Path(), offline=offline)


def _known_shapes(shape: str) -> str:
    return f"leave it out{did_you_mean(shape, get_args(Shape))}"


def refuse_place(out: Path, *, force: bool, read: str) -> None:
    """Nothing; a DataError before any work if a file cannot be written at `out`, or would be written over."""
    shown = printable(str(out))
    if out.suffix != WRITTEN:
        raise DataError(shown, f"what is written are JSON lines, got the ending '{out.suffix}'", f"end it in {WRITTEN}")
    if not out.parent.is_dir():
        raise DataError(shown, "there is no such folder", f"make {printable(str(out.parent))} first")
    if out.exists() and Path(read).exists() and out.samefile(read):
        raise DataError(shown, "is the file that is read", "choose another name")
    if out.exists() and not force:
        raise DataError(shown, "is there already", "choose another name, or write over it with --force")
