"""Sources of a recipe as records: files, folders, globs or the hub; split, renamed, filtered, validated and counted.

A source is read and validated completely when it is opened; its records are then cached on disk.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, Literal, TypeVar, cast, overload

from zephyr.data.read.hub import HubRows, open_hub
from zephyr.data.read.record_cache import RecordCache
from zephyr.data.read.selection import parse_split, renamed, unwanted, without
from zephyr.data.read.source_files import locate
from zephyr.errors import DataError, did_you_mean
from zephyr.recipe.data_section import DataSource
from zephyr.records.columns import ColumnAccounts, parse_messages
from zephyr.records.fields import SHOWN_FAULTS, Row, RowFault, printable
from zephyr.records.formats import detect_shape, known_columns, records_of, unknown_shape
from zephyr.records.lines import BLOCK_BYTES, opened
from zephyr.records.messages import Messages
from zephyr.records.reading import count_rows, read_items
from zephyr.records.rows import Chat, Preference, Prompt, Rated, Record, RecordKind, Shape, Text, prompt_id

_R = TypeVar("_R", bound=Record)

PAIR_SHAPES: frozenset[Shape] = frozenset({"preference", "hh_rlhf"})
# More rows than any file has, for slices that need no count.
_UNCOUNTED = 2**62


class Records(Generic[_R]):
    """The records of a source, in order, to be read any number of times.

    ``counts``: the dropped rows by reason. ``unused``: the columns and message keys that were not used, by name.
    ``noted``: rows read in another way than they are written, by what was done.
    """

    def __init__(
        self,
        source: DataSource,
        cache: RecordCache[_R],
        counts: Counter[str],
        shapes: Mapping[str, Shape],
        accounts: ColumnAccounts,
    ) -> None:
        self.source = source
        self.counts = counts
        self.shapes = shapes
        self.unused = accounts.unused
        self.noted = accounts.noted
        self._cache = cache

    @property
    def kind(self) -> RecordKind:
        """The kind of its records."""
        return self._cache.kind

    def __len__(self) -> int:
        return len(self._cache)

    def __iter__(self) -> Iterator[_R]:
        return iter(self._cache)

    def __getitem__(self, index: int) -> _R:
        return self._cache[index]

    def largest(self, count: int) -> list[int]:
        """The indices of the `count` largest records in bytes, largest first; no record is read for it."""
        return self._cache.largest(count)


@overload
def open_source(source: DataSource, kind: Literal["text"], *, data_dir: Path, offline: bool) -> Records[Text]: ...
@overload
def open_source(source: DataSource, kind: Literal["chat"], *, data_dir: Path, offline: bool) -> Records[Chat]: ...
@overload
def open_source(source: DataSource, kind: Literal["prompt"], *, data_dir: Path, offline: bool) -> Records[Prompt]: ...
@overload
def open_source(source: DataSource, kind: Literal["rated"], *, data_dir: Path, offline: bool) -> Records[Rated]: ...
@overload
def open_source(
    source: DataSource, kind: Literal["preference"], *, data_dir: Path, offline: bool
) -> Records[Preference]: ...
def open_source(source: DataSource, kind: RecordKind, *, data_dir: Path, offline: bool) -> Records[_R]:
    """The records of `kind` in a source, all read and validated.

    Answers in rows of their own are joined by prompt. Raises DataError that counts all unusable rows and describes the
    first five, unless `bad_rows` is "drop": then they are dropped and counted.
    """
    _check_columns(source)
    reader: _SourceReader[_R] = _SourceReader(source, kind)
    for file, item in _items(source, data_dir, offline=offline):
        reader.take(file, item)
        if reader.is_full:
            break
    return reader.records()


class _SourceReader(Generic[_R]):
    """The records of a source read so far, and its dropped rows and faults."""

    def __init__(self, source: DataSource, kind: RecordKind) -> None:
        self._source = source
        self._kind = kind
        self._cache: RecordCache[_R] = RecordCache(kind)
        self._shapes: dict[str, Shape] = {}
        self._counts: Counter[str] = Counter()
        self._faults: list[RowFault] = []
        self._reasons: Counter[str] = Counter()
        self._remedies: dict[str, None] = {}
        self._last_fields: list[str] = []
        self._accounts = ColumnAccounts(kind, named=_named(source), split=source.split)
        # The indices of the rows that answer one prompt; a row with all its answers has a key of its own.
        self._by_prompt: dict[str, list[int]] = {}

    @property
    def is_full(self) -> bool:
        """Whether the source's `max_rows` is reached."""
        most = self._source.max_rows
        return most is not None and self._kind != "rated" and len(self._cache) >= most

    def take(self, file: str, item: Row | RowFault) -> None:
        """Add the row's records, or count why it has none."""
        reason = unwanted(item.fields, self._source.where) if isinstance(item, Row) else ""
        if isinstance(item, Row) and reason:
            self._counts[reason] += 1
            self._last_fields = [printable(name) for name in item.fields]
            return
        records = self._records_of(file, item)
        if isinstance(records, RowFault):
            self._reasons[records.reason] += 1
            if records.remedy:
                self._remedies[records.remedy] = None
            if len(self._faults) < SHOWN_FAULTS:
                self._faults.append(records)
        elif not records:
            self._counts[f"without {self._kind} records"] += 1
        else:
            for record in records:
                self._add(record, is_answer_row=self._shapes[file] == "rated")

    def _records_of(self, file: str, item: Row | RowFault) -> Sequence[Record] | RowFault:
        row = renamed(item, self._source.columns) if isinstance(item, Row) else item
        if isinstance(row, RowFault):
            return row
        fields = {name: parse_messages(value) for name, value in row.fields.items()}
        is_parsed = any(fields[name] is not value for name, value in row.fields.items())
        row = without(Row(row.name, fields), self._source.ignore)
        shape = self._shape(file, row)
        records = records_of(row, shape, self._kind, self._accounts)
        if not isinstance(records, RowFault):
            if is_parsed:
                self._accounts.noted["messages read from JSON text"] += 1
            if shape in PAIR_SHAPES and self._kind == "chat":
                self._accounts.noted["pairs of which the chosen answer alone is used"] += 1
        return records

    def _add(self, record: Record, *, is_answer_row: bool) -> None:
        if self.is_full:
            return
        place = len(self._cache)
        if isinstance(record, Rated):
            key = prompt_id(record.prompt) if is_answer_row else f"row {place}"
            self._by_prompt.setdefault(key, []).append(place)
        elif isinstance(record, Prompt) and is_answer_row:
            places = self._by_prompt.setdefault(prompt_id(record.messages), [place])
            if places != [place]:
                self._counts["prompt already there"] += 1
                return
        source = record.source or printable(self._source.path)
        self._cache.append(cast("_R", record._replace(source=source)))

    def _shape(self, file: str, row: Row) -> Shape:
        if file not in self._shapes:
            shape = detect_shape(row.fields, self._kind) if self._source.shape == "auto" else self._source.shape
            if shape is None:
                raise unknown_shape(row, self._kind)
            self._shapes[file] = shape
        return self._shapes[file]

    def records(self) -> Records[_R]:
        """All records. Raises DataError for unusable rows that may not be dropped, or if no record is left."""
        where = printable(self._source.path)
        num_faults = self._reasons.total()
        if num_faults and self._source.bad_rows == "stop":
            remedies = [*self._remedies, "fix the data, or set bad_rows: drop, which skips such rows and counts them"]
            remedy = ", or ".join(remedies)
            if num_faults == 1:
                raise DataError(self._faults[0].name, self._faults[0].what, remedy)
            raise DataError(where, self._faults_in_words(num_faults), remedy)
        counts = self._counts + self._reasons
        cache = self._merged() if self._kind == "rated" else self._cache
        if not len(cache):
            what = f"no {self._kind} records are left of {counts.total():,} rows" if counts else "there are no rows"
            reasons = f" ({counted(counts)})" if counts else ""
            remedies = [*self._remedies, "check the file, split, shape, columns and where of the source"]
            raise DataError(where, what + reasons + self._unknown_where(), ", or ".join(remedies))
        return Records(self._source, cache, counts, dict(self._shapes), self._accounts)

    def _unknown_where(self) -> str:
        """A hint for a message: the first field of `where` that the last row left out does not have."""
        for name in self._source.where:
            if self._counts[f"no field {printable(name)}"] and name not in self._last_fields:
                return f"; '{printable(name)}' in where{did_you_mean(name, self._last_fields).replace(';', ':')}"
        return ""

    def _faults_in_words(self, num_faults: int) -> str:
        said = "; ".join(f"{fault.name}: {fault.what}" for fault in self._faults)
        more = f"; and {num_faults - len(self._faults):,} more" if num_faults > len(self._faults) else ""
        return f"{num_faults:,} rows cannot be used ({counted(self._reasons)}): {said}{more}"

    def _merged(self) -> RecordCache[_R]:
        """The rated prompts with all their answers, in the order of first appearance."""
        merged: RecordCache[_R] = RecordCache(self._kind)
        for places in islice(self._by_prompt.values(), self._source.max_rows):
            first, *others = (cast("Rated", self._cache[place]) for place in places)
            answers = (*first.answers, *(answer for other in others for answer in other.answers))
            checks = [*first.checks]
            for other in others:
                checks += [check for check in other.checks if check not in checks]
            merged.append(cast("_R", first._replace(answers=answers, checks=tuple(checks))))
        return merged


def source_hash(source: DataSource, data_dir: Path, *, offline: bool = False) -> str:
    """The SHA-256 of the names and bytes of a source's files, or of the commit of its data set on the hub."""
    digest = hashlib.sha256()
    files = locate(source, data_dir)
    if files is None:
        rows = _hub_rows(source, offline=offline)
        digest.update(f"{source.path}@{rows.commit}".encode())
    for path in files or ():
        # The size ends a file's bytes, so that nothing can be moved from one file to the next unnoticed.
        digest.update(f"\n{path.name}\n{path.stat().st_size}\n".encode(errors="surrogateescape"))
        with opened(path, printable(path.name), unpack=False) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def held_out(prompt: Messages, share: float, seed: int) -> bool:
    """Whether a prompt is in the held-out share; depends on the prompt, share and seed alone."""
    digest = hashlib.sha256(f"{seed}:{prompt_id(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _items(source: DataSource, data_dir: Path, *, offline: bool) -> Iterator[tuple[str, Row | RowFault]]:
    """The rows of the source's split, each with its file name; the name is empty for the hub."""
    files = locate(source, data_dir)
    split = parse_split(source.split, printable(source.path))
    if files is None:
        if source.streaming and split.needs_count:
            what = f"is streamed, so its rows are not counted, got split {source.split}"
            raise DataError(printable(source.path), what, "give row numbers from the start, or leave streaming out")
        rows = _hub_rows(source, offline=offline)
        chosen = split.rows(_UNCOUNTED if source.streaming else len(rows))
        yield from (("", row) for row in islice(rows, chosen.start, chosen.stop))
        return
    num_rows = sum(map(count_rows, files)) if split.needs_count else _UNCOUNTED
    chosen = split.rows(num_rows)
    items = ((str(file), item) for file in files for item in read_items(file))
    yield from islice(items, chosen.start, chosen.stop)


def _hub_rows(source: DataSource, *, offline: bool) -> HubRows:
    return open_hub(source, parse_split(source.split, source.path).name, offline=offline)


def _named(source: DataSource) -> set[str]:
    """The columns that `where` uses, and the first parts of their paths."""
    return {*source.where, *(name.partition(".")[0] for name in source.where)}


def _check_columns(source: DataSource) -> None:
    """Raise DataError if `columns` renames fields to names that no reader knows."""
    known = known_columns()
    unknown = [name for name in source.columns if name not in known]
    if unknown:
        what = f"columns has names that no format reads, got {', '.join(map(printable, unknown))}"
        remedy = f"write our name: the name in the rows{did_you_mean(unknown[0], known)}"
        raise DataError(printable(source.path), what, remedy)


def counted(counts: Counter[str]) -> str:
    """Counts by name in words, the largest first."""
    return ", ".join(f"{count:,} x {reason}" for reason, count in counts.most_common())
