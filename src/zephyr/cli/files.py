"""The files of rows that commands read and write, as users name them."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from zephyr.errors import DataError, did_you_mean
from zephyr.recipe.data_section import BadRows, DataSource
from zephyr.records.fields import printable
from zephyr.records.rows import Shape

WRITTEN = ".jsonl"
_EXAMPLES = {"--columns": "prompt=question", "--where": "label=true"}


def source_of(
    path: str,
    *,
    shape: str,
    columns: Sequence[str] | None,
    where: Sequence[str] | None,
    ignore: Sequence[str] | None,
    bad_rows: BadRows,
    max_rows: int | None = None,
) -> DataSource:
    """The source that a command's options describe, with the words of a recipe's sources. Raises DataError."""
    if shape not in ("auto", *get_args(Shape)):
        raise DataError(
            "--shape",
            f"there is no such format, got '{printable(shape)}'",
            did_you_mean(shape, get_args(Shape)).removeprefix("; "),
        )
    return DataSource(
        path=path,
        shape=cast("Shape", shape),
        columns=dict(_pair("--columns", part) for text in columns or () for part in text.split(",")),
        where=dict(_pair("--where", text) for text in where or ()),
        ignore=[name.strip() for text in ignore or () for name in text.split(",")],
        bad_rows=bad_rows,
        max_rows=max_rows,
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        forms = {"--columns": "our name=the name in the rows", "--where": "name=value"}
        raise DataError(
            option, f"is no {forms[option]}, got '{printable(text)}'", f"write {option} {_EXAMPLES[option]}"
        )
    return name.strip(), value.strip()


def check_output(out: Path, *, force: bool, read: str) -> None:
    """Check that `out` can be written, before any work. Raises DataError, also for the file `read`."""
    shown = printable(str(out))
    if out.suffix != WRITTEN:
        raise DataError(
            shown, f"must be a JSON-lines file, got the extension '{out.suffix}'", f"use the extension {WRITTEN}"
        )
    if not out.parent.is_dir():
        raise DataError(shown, "there is no such folder", f"make {printable(str(out.parent))} first")
    if out.exists() and Path(read).exists() and out.samefile(read):
        raise DataError(shown, "is the input file", "choose another name")
    if out.exists() and not force:
        raise DataError(shown, "already exists", "choose another name, or overwrite it with --force")
