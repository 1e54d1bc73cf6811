"""Prompts and answers to be rated, read from a source in any format that holds some."""

from pathlib import Path
from typing import NamedTuple, TypeVar

from zephyr.data.read.sources import Records, open_source
from zephyr.errors import DataError, UnknownFormatError
from zephyr.feedback.binarize import gather
from zephyr.recipe.data_section import DataSource
from zephyr.records.fields import printable
from zephyr.records.messages import has_tools
from zephyr.records.rows import Answer, Preference, Prompt, Rated, Record

R = TypeVar("R", bound=Record)


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


def open_compared(source: DataSource, *, offline: bool) -> list[Rated]:
    """Rows of rated answers, or of preferences, which say with scores of 2 and 1 which answer of a pair is better.

    Raises DataError if there are none.
    """
    try:
        return list(open_source(source, "rated", data_dir=Path(), offline=offline))
    except UnknownFormatError:
        pairs = _open_pairs(source, offline=offline)
        if pairs is None:
            raise
        return [_with_preference(row) for row in pairs]


def _with_preference(row: Preference) -> Rated:
    scores = (2.0, 1.0) if len(row.completions) == 2 else row.ratings
    rated = _answers_of(row)
    answers = (answer._replace(score=score) for answer, score in zip(rated.answers, scores, strict=True))
    return rated._replace(answers=tuple(answers))


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
