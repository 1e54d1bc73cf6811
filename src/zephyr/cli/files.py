"""The files of rows that commands read and write, as users name them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, cast, get_args

from zephyr.data.read.sources import Records, open_source
from zephyr.errors import DataError, UnknownFormatError, did_you_mean
from zephyr.feedback.binarize import gather
from zephyr.recipe.data_section import BadRows, DataSource
from zephyr.records.fields import printable
from zephyr.records.messages import has_tools
from zephyr.records.rows import Answer, Preference, Prompt, Rated, Record, Shape

R = TypeVar("R", bound=Record)

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


class OpenedRows(NamedTuple):
    """Prompts, with their answers or without, and what is printed of the columns of their file."""

    rows: Records[Rated] | list[Rated] | Records[Prompt]
    columns: dict[str, object]


def open_prompts(source: DataSource, *, offline: bool) -> OpenedRows:
    """The prompts of a source. Raises DataError if there are none."""
    prompts = open_source(source, "prompt", data_dir=Path(), offline=offline)
    return OpenedRows(prompts, column_accounts(prompts))


def open_answers(source: DataSource, *, offline: bool) -> OpenedRows:
    """Prompts with their answers, from rated answers or from preferences. Raises DataError if there are none."""
    try:
        rated = open_source(source, "rated", data_dir=Path(), offline=offline)
    except UnknownFormatError:
        # Pairs and labels contain answers too; for anything else the first error is the right one.
        pairs = _open_pairs(source, offline=offline)
        if pairs is not None:
            return OpenedRows(gather(map(_answers_of, pairs)), column_accounts(pairs))
        if _holds_prompts(source, offline=offline):
            where, what = printable(source.path), "contains prompts without answers"
            raise DataError(where, what, "name the models that answer them with --models") from None
        raise
    return OpenedRows(rated, column_accounts(rated))


def _open_pairs(source: DataSource, *, offline: bool) -> Records[Preference] | None:
    try:
        return open_source(source, "preference", data_dir=Path(), offline=offline)
    except UnknownFormatError:
        return None


def _holds_prompts(source: DataSource, *, offline: bool) -> bool:
    try:
        prompts = open_source(source, "prompt", data_dir=Path(), offline=offline)
    except DataError:
        return False
    return set(prompts.shapes.values()) == {"prompt"}


def column_accounts(read: Records[R]) -> dict[str, object]:
    """What is printed of a file's columns: those that were not used, and rows read in another way than written."""
    return {"columns_not_used": dict(read.unused), **({"noted": dict(read.noted)} if read.noted else {})}


def _answers_of(row: Preference) -> Rated:
    if row.inputs.tools or has_tools((*row.prompt, *row.answers)):
        raise DataError(row.name, "has tools, and answers with tools cannot be rated", "remove the row")
    models = row.models or ("",) * len(row.completions)
    answers = tuple(
        Answer(answer.content, model, reasoning=answer.reasoning)
        for answer, model in zip(row.answers, models, strict=True)
    )
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
