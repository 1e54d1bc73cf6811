"""The filters of a recipe: built by name from plain settings, applied one after the other, and reported on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

from zephyr.data.filters.benchmark_texts import read_benchmarks
from zephyr.data.filters.decontamination import BenchmarkIndex, DecontaminationFilter
from zephyr.data.filters.languages import LanguageFilter
from zephyr.data.filters.lengths import LengthFilter
from zephyr.data.filters.near_duplicates import DuplicateFilter
from zephyr.data.filters.refusals import RefusalFilter
from zephyr.data.filters.report import FilterCounts, FilterReport
from zephyr.data.filters.row_filter import RowFilter
from zephyr.data.filters.truecasing import TruecaseFilter
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Text

Option = str | int | float | None | Sequence[str]
AnyRecord = TypeVar("AnyRecord", bound=Text | Chat | Prompt | Rated | Preference)


class Filtered(NamedTuple, Generic[AnyRecord]):
    """The rows that are left, read once, and the report, which is complete when they have been."""

    rows: Iterator[AnyRecord]
    report: FilterReport


def build_filter(name: str, options: Mapping[str, Option], *, data_dir: Path) -> RowFilter:
    """The filter of that name in recipes, made for one pass over a data set; `options` are its settings, all of them.

    Evaluation sets to decontaminate against are looked up in `data_dir`, and read at once.
    """
    if name not in FILTERS:
        raise ValueError(f"unknown filter {name!r}, known are {', '.join(FILTERS)}")
    given = _Options(name, options)
    built = FILTERS[name](given, data_dir)
    given.check_used()
    return built


def apply_filters(records: Iterable[AnyRecord], filters: Sequence[RowFilter]) -> Filtered[AnyRecord]:
    """The rows of `records` that pass all `filters`, each changed as they say, and a report that grows meanwhile."""
    report = FilterReport([FilterCounts(row_filter.name) for row_filter in filters])
    for row_filter in filters:
        if isinstance(row_filter, DecontaminationFilter):
            report.notes += row_filter.notes
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


class _Options:
    """Settings by name, each of the kind its filter expects."""

    def __init__(self, name: str, options: Mapping[str, Option]) -> None:
        self._name = name
        self._left = dict(options)

    def _take(self, option: str) -> Option:
        if option not in self._left:
            raise ValueError(f"filter {self._name} needs the option {option!r}")
        return self._left.pop(option)

    def number(self, option: str) -> float:
        value = self._take(option)
        if not isinstance(value, int | float):
            raise TypeError(f"option {option!r} of filter {self._name} is a number, got {value!r}")
        return value

    def count(self, option: str) -> int:
        return int(self.number(option))

    def limit(self, option: str) -> int | None:
        if self._left.get(option, 0) is not None:
            return self.count(option)
        del self._left[option]
        return None

    def texts(self, option: str) -> tuple[str, ...]:
        value = self._take(option)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(f"option {option!r} of filter {self._name} is a list of texts, got {value!r}")
        return tuple(value)

    def check_used(self) -> None:
        if self._left:
            raise ValueError(f"filter {self._name} has no option {', '.join(map(repr, self._left))}")


def _decontamination(options: _Options, data_dir: Path) -> DecontaminationFilter:
    benchmarks = read_benchmarks(options.texts("against"), data_dir)
    return DecontaminationFilter(
        BenchmarkIndex(benchmarks.found, ngram=options.count("ngram")), without_prompts=benchmarks.without_prompts
    )


FILTERS: Mapping[str, Callable[[_Options, Path], RowFilter]] = {
    "truecase": lambda _options, _data_dir: TruecaseFilter(),
    "refusals": lambda options, _data_dir: RefusalFilter(phrases=options.texts("phrases")),
    "language": lambda options, _data_dir: LanguageFilter(keep=options.texts("keep")),
    "length": lambda options, _data_dir: LengthFilter(
        min_characters=options.count("min_characters"),
        max_characters=options.limit("max_characters"),
        max_turns=options.limit("max_turns"),
    ),
    "duplicates": lambda options, _data_dir: DuplicateFilter(threshold=options.number("threshold")),
    "decontamination": _decontamination,
}
