"""The files of rows that commands read and write, as users name them."""

from pathlib import Path
from typing import Literal, cast, get_args, overload

from zephyr.data.read.sources import Records, open_source
from zephyr.errors import DataError, did_you_mean
from zephyr.feedback.binarize import gather
from zephyr.recipe.data_section import BadRows, DataSource
from zephyr.records.fields import printable
from zephyr.records.messages import has_tools
from zephyr.records.rows import Answer, Preference, Prompt, Rated, Shape

WRITTEN = ".jsonl"


@overload
def open_rows(path: str, kind: Literal["rated"], *, shape: str, bad_rows: BadRows, offline: bool) -> Records[Rated]: ...
@overload
def open_rows(
    path: str, kind: Literal["prompt"], *, shape: str, bad_rows: BadRows, offline: bool
) -> Records[Prompt]: ...
def open_rows(
    path: str, kind: Literal["rated", "prompt"], *, shape: str, bad_rows: BadRows, offline: bool
) -> Records[Rated] | Records[Prompt]:
    """The records of a file, folder, glob or hub id. Raises DataError for an unknown format or unusable rows."""
    if shape not in ("auto", *get_args(Shape)):
        raise DataError(
            "--shape",
            f"there is no such format, got '{printable(shape)}'",
            did_you_mean(shape, get_args(Shape)).removeprefix("; "),
        )
    source = DataSource(path=path, shape=cast("Shape", shape), bad_rows=bad_rows)
    if kind == "rated":
        return open_source(source, "rated", data_dir=Path(), offline=offline)
    return open_source(source, "prompt", data_dir=Path(), offline=offline)


def open_answers(path: str, *, shape: str, bad_rows: BadRows, offline: bool) -> Records[Rated] | list[Rated]:
    """Prompts with their answers, from rated answers or from preferences. Raises DataError if there are none."""
    try:
        return open_rows(path, "rated", shape=shape, bad_rows=bad_rows, offline=offline)
    except DataError:
        # Pairs and labels contain answers too; for anything else the first error is the right one.
        pairs = _open_pairs(path, bad_rows=bad_rows, offline=offline)
        if pairs is not None:
            return gather(pairs)
        if _holds_prompts(path, bad_rows=bad_rows, offline=offline):
            where, what = printable(path), "contains prompts without answers"
            raise DataError(where, what, "name the models that answer them with --models") from None
        raise


def _open_pairs(path: str, *, bad_rows: BadRows, offline: bool) -> list[Rated] | None:
    try:
        records = open_source(DataSource(path=path, bad_rows=bad_rows), "preference", data_dir=Path(), offline=offline)
    except DataError:
        return None
    return [_answers_of(record) for record in records]


def _holds_prompts(path: str, *, bad_rows: BadRows, offline: bool) -> bool:
    try:
        prompts = open_source(DataSource(path=path, bad_rows=bad_rows), "prompt", data_dir=Path(), offline=offline)
    except DataError:
        return False
    return set(prompts.shapes.values()) == {"prompt"}


def _answers_of(row: Preference) -> Rated:
    if row.tools or has_tools((*row.prompt, *row.answers)):
        raise DataError(row.name, "has tools, and answers with tools cannot be rated", "remove the row")
    models = row.models or ("",) * len(row.completions)
    answers = tuple(Answer(text, model) for text, model in zip(row.completions, models, strict=True))
    return Rated(row.name, row.prompt, answers, row.source)


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
