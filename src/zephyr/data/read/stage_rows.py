"""The rows of a stage: read from its sources, mixed, filtered, split into training and held-out rows, all counted."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar, cast

from zephyr.data.filters.apply import apply_filters, build_filter
from zephyr.data.filters.report import FilterReport
from zephyr.data.filters.row_filter import RowFilter
from zephyr.data.read.mixture import Mixture, mix
from zephyr.data.read.overlap import PromptOverlap, refuse_shared_files
from zephyr.data.read.record_cache import RecordCache
from zephyr.data.read.refused_rows import RefusedRows
from zephyr.data.read.source_files import name_of
from zephyr.data.read.sources import Records, held_out, open_source, source_hash
from zephyr.errors import DataError, Problems
from zephyr.recipe.data_section import DataSection, DataSource, Filter
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.records.fields import UnusableError
from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Record, RecordKind, Text

R = TypeVar("R", bound=Record)

Part = Literal["train", "eval"]
PARTS: tuple[Part, ...] = ("train", "eval")  # in this order: reading the first fills the second
KINDS: dict[type[object], RecordKind] = {
    Text: "text", Chat: "chat", Prompt: "prompt", Rated: "rated", Preference: "preference",
}  # fmt: skip


class Accounts:
    """What was read, left out and filtered of a stage's rows."""

    def __init__(self, opened: Iterable[Records[R]] = ()) -> None:
        self.dropped: dict[str, Counter[str]] = {}
        self.unused: dict[str, Counter[str]] = {}
        self.noted: dict[str, Counter[str]] = {}
        self.report: FilterReport | None = None
        self.refused = RefusedRows()
        self.overlap = PromptOverlap()
        for records in opened:
            self.read(records)

    def read(self, records: Records[R]) -> None:
        """Note what the source of these records had to leave out: rows, and columns."""
        name = name_of(records.source)
        for mine, found in (
            (self.dropped, records.counts), (self.unused, records.unused), (self.noted, records.noted)
        ):  # fmt: skip
            if found:
                mine.setdefault(name, Counter()).update(found)
        self.refused.read(records)

    def refuse(self, row: Record, error: UnusableError) -> None:
        """Count a row that cannot be encoded; `refused.check` raises if it may not be dropped."""
        source, reason = self.refused.add(row, error)
        if source.bad_rows == "drop":
            self.dropped.setdefault(name_of(source), Counter())[reason] += 1

    def refused_lines(self) -> list[str]:
        """The dropped rows that cannot be encoded, in words."""
        return [
            f"{name_of(source)}: left out {', '.join(f'{count:,} x {reason}' for reason, count in reasons.items())}"
            for source, reasons in self.refused.dropped()
        ]

    def facts(self) -> dict[str, Plain]:
        """The accounts as plain values."""
        facts: dict[str, Plain] = {}
        for name, found in (("left_out", self.dropped), ("unused_columns", self.unused), ("noted", self.noted)):
            if found:
                facts[name] = {path: dict(counts.most_common()) for path, counts in found.items()}
        if self.report is not None and self.report.filters:
            facts["filtered"] = f"{self.report.rows_in - self.report.rows_out:,} of {self.report.rows_in:,}"
            facts["filtered_out"] = {
                one.name: {reason: tally.count for reason, tally in one.dropped.items()}
                for one in self.report.filters
                if one.dropped
            }
        if self.overlap.shared:
            facts["held_out_prompts_trained_on"] = len(self.overlap.shared)
        return facts

    def lines(self) -> list[str]:
        """The accounts in words."""
        told = [
            f"{path}: left out {', '.join(f'{count:,} x {reason}' for reason, count in counts.items())}"
            for path, counts in self.dropped.items()
        ]
        return told + self.filter_lines()

    def filter_lines(self) -> list[str]:
        """What the filters did, in words."""
        return self.report.lines() if self.report is not None and self.report.filters else []

    def none_left(self, otherwise: str = "") -> DataError:
        """The error for a stage without a row, which says what took them; `otherwise` if nothing here did."""
        counted = "; ".join(line.strip() for line in self.lines()) or otherwise
        return DataError("training rows", f"none is left ({counted})", "loosen the filters, or give other data")

    def write(self, folder: Path) -> None:
        """Write the filter report into the folder."""
        if self.report is not None and self.report.filters:
            self.report.write(folder)


class Rows(NamedTuple, Generic[R]):
    """The rows of a stage as a stream, and the accounts, which are complete when the stream has ended.

    No row stays in memory: those held out are read from the disk.
    """

    train: Iterator[R]
    evaluation: Mixture[R] | RecordCache[R]
    accounts: Accounts

    def part(self, part: Part) -> Iterable[R]:
        """The rows to train on, or those held out, which are known when the others have been read."""
        return self.train if part == "train" else self.evaluation


def hash_of_source(recipe: Recipe, source: DataSource) -> str:
    """The content hash of a source, which the name of a stage depends on. Raises DataError."""
    return source_hash(source, recipe.data_dir, offline=recipe.offline)


def open_records(recipe: Recipe, source: DataSource, kind: type[R]) -> Records[R]:
    """The records of one source, of one kind of record. Raises DataError."""
    where, offline = recipe.data_dir, recipe.offline
    opened: object
    match KINDS[kind]:
        case "text":
            opened = open_source(source, "text", data_dir=where, offline=offline)
        case "chat":
            opened = open_source(source, "chat", data_dir=where, offline=offline)
        case "prompt":
            opened = open_source(source, "prompt", data_dir=where, offline=offline)
        case "rated":
            opened = open_source(source, "rated", data_dir=where, offline=offline)
        case "preference":
            opened = open_source(source, "preference", data_dir=where, offline=offline)
    return cast("Records[R]", opened)


def open_all(recipe: Recipe, sources: Sequence[DataSource], kind: type[R]) -> list[Records[R]]:
    """The records of every source. Raises one error that says what is wrong with all of them."""
    problems = Problems()
    opened: list[Records[R]] = []
    for source in sources:
        with problems.noted():
            opened.append(open_records(recipe, source, kind))
    problems.raise_any()
    return opened


def filters_of(recipe: Recipe, sections: Sequence[Filter]) -> list[RowFilter]:
    """The filters, new for one pass over rows. Raises DataError where an evaluation set they need is not there."""
    return [build_filter(one, data_dir=recipe.data_dir) for one in sections]


def stage_rows(recipe: Recipe, data: DataSection, kind: type[R], made_before: Path | None) -> Rows[R]:
    """The rows of a stage; `made_before` is the file of an earlier stage, read where the section reads made rows.

    Raises one DataError that says what is wrong with all sources.
    """
    made = [DataSource(path=str(_expected(made_before).resolve()))] if data.reads_made else []
    sources = [*data.sources, *made]
    if not data.allow_overlap:
        refuse_shared_files(sources, data.eval_sources, recipe.data_dir)
    opened = open_all(recipe, [*sources, *data.eval_sources], kind)
    return split_rows(recipe, data, opened[: len(sources)], opened[len(sources) :])


def split_rows(recipe: Recipe, data: DataSection, parts: Sequence[Records[R]], held: Sequence[Records[R]]) -> Rows[R]:
    """The opened sources as rows to train on, filtered and shuffled, and as held-out rows."""
    accounts = Accounts((*parts, *held))
    mixture = mix(parts, seed=recipe.seed, shuffle=data.shuffle)
    return split_off(recipe, data, mixture, held, accounts, kind=mixture.kind)


def split_off(
    recipe: Recipe,
    data: DataSection,
    rows: Iterable[R],
    held: Sequence[Records[R]],
    accounts: Accounts,
    *,
    kind: RecordKind,
) -> Rows[R]:
    """The rows filtered, without those to hold out. At their end DataError if held-out prompts are among them."""
    filtered = apply_filters(rows, filters_of(recipe, data.filters))
    accounts.report = filtered.report
    given = mix(held, seed=recipe.seed, shuffle=False) if data.eval_sources else None
    accounts.overlap = PromptOverlap(given or (), data.eval_sources, data.allow_overlap)
    if given is not None:
        return Rows(accounts.overlap.passed(filtered.rows), given, accounts)
    kept: RecordCache[R] = RecordCache(kind)
    train = _without_share(filtered.rows, kept, data.eval_share, recipe.seed)
    return Rows(accounts.overlap.passed(train), kept, accounts)


def prompt_of(record: Record) -> Messages:
    """What decides on which side of a split a row falls: its prompt up to the first user turn, or its text."""
    if isinstance(record, Text):
        return (Message("user", record.text),)
    messages = record.messages if isinstance(record, Chat | Prompt) else record.prompt
    first = next(index for index, message in enumerate(messages) if message.role == "user")
    return (Message("user", messages[first].content),)


def _without_share(rows: Iterator[R], kept: RecordCache[R], share: float, seed: int) -> Iterator[R]:
    """The rows to train on; those of the share of prompts to hold out go to `kept`."""
    for row in rows:
        if share and held_out(prompt_of(row), share, seed):
            kept.append(row)
        else:
            yield row


def _expected(made_before: Path | None) -> Path:
    if made_before is None:
        raise DataError("data.sources", "is empty, and no stage before has made data", "name a source")
    return made_before
