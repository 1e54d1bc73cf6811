"""Whether held-out rows are trained on: sources compared by their files and row numbers, rows by their prompts.

The prompt of a row is what users say in it, in all turns and without regard to case and spaces; that of a plain text is
the text. A prompt that is trained on and held out is refused unless `allow_overlap` covers it.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from zephyr.data.filters.parts import prompt_key
from zephyr.data.read.selection import parse_split
from zephyr.data.read.source_files import locate, name_of
from zephyr.errors import DataError, Problems
from zephyr.recipe.data_section import DataSource
from zephyr.records.fields import SHOWN_FAULTS, printable
from zephyr.records.reading import count_rows
from zephyr.records.rows import Record

R = TypeVar("R", bound=Record)
_REMEDY = "take these rows out of one side, or hold out a share of the sources by eval_share instead of eval_sources"


class PromptOverlap:
    """The prompts of rows to train on as they are read, and which of them are held-out ones.

    ``trained``: the keys of all rows seen, 8 bytes each.
    """

    def __init__(self, held: Iterable[Record] = (), sources: Sequence[DataSource] = (), allowed: int = 0) -> None:
        self.trained = array("Q")
        self.shared = set[int]()
        self._held = {prompt_key(record) for record in held}
        self._where = ", ".join(name_of(source) for source in sources[:SHOWN_FAULTS])
        self._allowed = allowed
        self._num_rows = 0
        self._names: list[str] = []

    def passed(self, rows: Iterable[R]) -> Iterator[R]:
        """The rows, noted as they pass. Raises DataError at their end as `check` does."""
        for row in rows:
            self.add(row)
            yield row
        self.check()

    def add(self, row: Record) -> None:
        """Note that the row will be trained on."""
        key = prompt_key(row)
        self.trained.append(key)
        if key in self._held:
            self.shared.add(key)
            self._num_rows += 1
            if len(self._names) < SHOWN_FAULTS:
                self._names.append(row.name)

    def check(self) -> None:
        """Raise DataError where more held-out prompts are trained on than are allowed."""
        if len(self.shared) > self._allowed:
            raise overlap_error(self._where, len(self.shared), len(self._held), self._allowed, self._words())

    def _words(self) -> str:
        more = f" and {self._num_rows - len(self._names):,} more" if self._num_rows > len(self._names) else ""
        return f"by {', '.join(self._names)}{more}"


def overlap_error(where: str, num_shared: int, num_held: int, allowed: int, how: str) -> DataError:
    """The error for held-out prompts of the sources `where` that are trained on."""
    of = f"{num_shared:,} of {num_held:,} held-out prompts are" if num_held != 1 else "its only held-out prompt is"
    limit = f", allowed are {allowed:,}" if allowed else ""
    return DataError(where, f"{of} also trained on, {how}{limit}", f"{_REMEDY}, or write allow_overlap: {num_shared}")


class _Slice(NamedTuple):
    """A file of a source, and the numbers of its rows that are taken, from 0."""

    path: Path
    rows: range


def refuse_shared_files(sources: Sequence[DataSource], held: Sequence[DataSource], data_dir: Path) -> None:
    """Check that no source takes rows of a file that a held-out source takes too, by row numbers.

    Sources that take a part of their rows by other means than `split` are left to the comparison of prompts. Raises
    DataError.
    """
    problems = Problems()
    for one in held:
        for source in sources:
            with problems.noted():
                _refuse_shared(source, one, data_dir)
    problems.raise_any()


def _refuse_shared(source: DataSource, held: DataSource, data_dir: Path) -> None:
    if source.where != held.where or any(one.max_rows is not None or one.weight < 1 for one in (source, held)):
        return
    if not _files(source, data_dir).keys() & _files(held, data_dir).keys():
        return
    trained = dict(_slices(source, data_dir))
    kept = dict(_slices(held, data_dir))
    num_held = sum(len(one.rows) for one in kept.values())
    common = [
        _Slice(kept[file].path, range(max(rows.start, kept[file].rows.start), min(rows.stop, kept[file].rows.stop)))
        for file, (_, rows) in trained.items()
        if file in kept
    ]
    common = [one for one in common if one.rows]
    if common:
        num_rows = sum(len(one.rows) for one in common)
        first = common[0]
        numbers = f"{first.rows.start + 1:,} to {first.rows.stop:,}" if len(first.rows) > 1 else f"{first.rows.stop:,}"
        which = f"rows {numbers} of {printable(first.path.name)}"
        more = f" and of {len(common) - 1:,} more files" if len(common) > 1 else ""
        what = f"{num_rows:,} of its {num_held:,} rows are also trained on, by {name_of(source)}: {which}{more}"
        raise DataError(name_of(held), what, f"{_REMEDY}, or write allow_overlap: {num_rows}")


def _files(source: DataSource, data_dir: Path) -> dict[tuple[int, int], Path]:
    """The source's files by what they are on the disk, whatever they are called; none for a data set of the hub."""
    return {(found.st_dev, found.st_ino): path for path in locate(source, data_dir) or () for found in [path.stat()]}


def _slices(source: DataSource, data_dir: Path) -> Iterator[tuple[tuple[int, int], _Slice]]:
    """The rows of each file that the source's split takes."""
    files = _files(source, data_dir)
    counts = [count_rows(path) for path in files.values()]
    chosen = parse_split(source.split, printable(source.path)).rows(sum(counts))
    start = 0
    for (file, path), count in zip(files.items(), counts, strict=True):
        rows = range(max(chosen.start - start, 0), min(chosen.stop - start, count))
        yield file, _Slice(path, rows)
        start += count
