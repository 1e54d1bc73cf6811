"""The filters of a recipe: built from their sections, applied one after the other, and reported on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

from zephyr.data.filters.near_duplicates import SeenRows
from zephyr.data.filters.parts import judge_part
from zephyr.data.filters.refusals import judge_refusals, own_phrase
from zephyr.data.filters.report import FilterCounts, FilterReport
from zephyr.data.filters.row_filter import RowFilter, Verdict
from zephyr.recipe.data_section import (
    DecontaminationFilter,
    DuplicateFilter,
    Filter,
    LanguageFilter,
    LengthFilter,
    PartFilter,
    RefusalFilter,
    TruecaseFilter,
)
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Record, Text

AnyRecord = TypeVar("AnyRecord", bound=Text | Chat | Prompt | Rated | Preference)


class Filtered(NamedTuple, Generic[AnyRecord]):
    """The remaining rows as a stream, and the report, which is complete when the stream has ended."""

    rows: Iterator[AnyRecord]
    report: FilterReport


def build_filter(section: Filter, *, data_dir: Path) -> RowFilter:
    """The filter of a section, made for one pass over a data set; its code is imported where a recipe names it.

    Evaluation sets to decontaminate against are looked up in `data_dir`, and read at once. Raises DataError where one
    of them cannot be read.
    """
    judge: Callable[[Record], Verdict]
    notes: tuple[str, ...] = ()
    match section:
        case TruecaseFilter():
            from zephyr.data.filters.truecasing import truecase_record

            judge = truecase_record
        case RefusalFilter():
            judge = partial(judge_refusals, tuple(map(own_phrase, section.phrases)))
        case LanguageFilter():
            from zephyr.data.filters.language_and_length import judge_language

            judge = partial(judge_language, section)
        case LengthFilter():
            from zephyr.data.filters.language_and_length import judge_length

            judge = partial(judge_length, section)
        case PartFilter():
            judge = partial(judge_part, section)
        case DuplicateFilter():
            judge = SeenRows(section).judge
        case DecontaminationFilter():
            from zephyr.data.filters.benchmark_texts import read_benchmarks
            from zephyr.data.filters.decontamination import BenchmarkIndex

            read = read_benchmarks(section.against, data_dir)
            judge = BenchmarkIndex(read.found, ngram=section.ngram).judge
            notes = tuple(f"{file} holds no prompts, so nothing was compared with it" for file in read.without_prompts)
    return RowFilter(section.name, judge, notes)


def apply_filters(records: Iterable[AnyRecord], filters: Sequence[RowFilter]) -> Filtered[AnyRecord]:
    """The rows that pass all filters, changed as the filters say, and the report on them."""
    report = FilterReport([FilterCounts(row_filter.name) for row_filter in filters])
    report.notes += [note for row_filter in filters for note in row_filter.notes]
    return Filtered(_passing(records, filters, report), report)


def _passing(records: Iterable[AnyRecord], filters: Sequence[RowFilter], report: FilterReport) -> Iterator[AnyRecord]:
    for record in records:
        report.rows_in += 1
        left = _filtered(record, filters, report)
        if left is not None:
            report.rows_out += 1
            yield left


def _filtered(record: AnyRecord, filters: Sequence[RowFilter], report: FilterReport) -> AnyRecord | None:
    left = record
    for row_filter, counts in zip(filters, report.filters, strict=True):
        counts.rows_in += 1
        verdict = row_filter.judge(left)
        if verdict.record is None:
            counts.dropped[verdict.reason].add(left.name, verdict.evidence)
            return None
        if verdict.record is not left:
            assert type(verdict.record) is type(left), f"{row_filter.name} made another kind of row"
            counts.changed[verdict.reason].add(left.name, verdict.evidence)
            left = cast("AnyRecord", verdict.record)
    return left
