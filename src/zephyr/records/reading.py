"""Rows of files as people have them: JSONL, JSON, CSV, TSV, Parquet, plain text, each also gzipped.

Files are streamed. A fault of a row affects that row alone; a fault of a file (truncated, no table) is raised, because
an unknown number of rows is lost.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from zephyr.errors import DataError, did_you_mean
from zephyr.records.fields import Json, Row, RowFault, listed, printable
from zephyr.records.json_files import read_json_rows, read_jsonl_rows
from zephyr.records.tables import read_csv, read_parquet
from zephyr.records.text_files import read_text

__all__ = ["Json", "Row", "RowFault", "count_rows", "data_files", "read_items", "read_rows"]

READERS: dict[str, Callable[[Path, str], Iterator[Row | RowFault]]] = {
    ".jsonl": read_jsonl_rows,
    ".ndjson": read_jsonl_rows,
    ".json": read_json_rows,
    ".csv": partial(read_csv, delimiter=","),
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
    ".txt": read_text,
}
# Files that the datasets library writes beside its rows.
_DESCRIPTIONS = frozenset({"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"})
_GLOB = frozenset("*?[")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of the files of a folder or glob. Raises DataError at the first that cannot be read."""
    for file in data_files(path):
        for item in read_items(file):
            if isinstance(item, RowFault):
                raise DataError(item.name, item.what, "fix the row, or remove it")
            yield item


def read_items(file: Path) -> Iterator[Row | RowFault]:
    """The rows of one file, with faults in place of unreadable rows. Raises DataError for the file as a whole."""
    name = printable(file.name)
    reader = READERS.get(_suffix(file))
    if reader is None:
        remedy = f"end its name in one of {listed(READERS)}, and .gz if compressed"
        raise DataError(name, "has an unknown file type", remedy)
    return _placed(reader(file, name), name)


def count_rows(path: Path) -> int:
    """The number of rows of a file, usable or not; a file that did not change is counted once."""
    found = path.stat()
    return _count_rows(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _count_rows(path: Path, _num_bytes: int, _changed_ns: int) -> int:
    return sum(1 for _ in read_items(path))


def _placed(items: Iterator[Row | RowFault], name: str) -> Iterator[Row | RowFault]:
    """The items; an error about the file as a whole also says after which row it came."""
    last = ""
    try:
        for item in items:
            last = item.name
            yield item
    except DataError as error:
        if not last or error.where != name:
            raise
        raise DataError(f"{name}, after {last.removeprefix(name).strip()}", error.what, error.remedy) from error


def data_files(path: Path) -> list[Path]:
    """The files of a path, sorted: itself, the data files of a folder, or those that a glob matches.

    Raises DataError if there is none.
    """
    if path.is_file():
        return [path]
    shown = printable(str(path))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_data_file(file))
        if not files:
            inside = sorted(entry.name for entry in path.iterdir())
            remedy = f"give a file or a folder with files of {listed(READERS)} (there are: {listed(inside)})"
            raise DataError(shown, "the folder has no data files", remedy)
        return files
    if is_glob(path):
        parts = path.parts
        first = next(place for place, part in enumerate(parts) if _GLOB & set(part))
        folder = Path(*parts[:first])
        files = sorted(file for file in folder.glob(str(Path(*parts[first:]))) if is_data_file(file))
        if not files:
            raise DataError(shown, "no data file matches", f"expected files of {listed(READERS)}, also with .gz")
        return files
    raise DataError(shown, "no such file or folder", f"check the path{nearest_entry(path)}")


def is_glob(path: Path) -> bool:
    """Whether a path contains a wildcard."""
    return bool(_GLOB & set(str(path)))


def is_data_file(file: Path) -> bool:
    """Whether a folder's entry is a file of rows, by its name."""
    is_hidden = file.name.startswith((".", "_"))
    return _suffix(file) in READERS and not is_hidden and file.name not in _DESCRIPTIONS and file.is_file()


def nearest_entry(path: Path) -> str:
    """A hint for a message about a missing path: its first missing part, and the nearest name there."""
    folder = Path(path.anchor)
    for part in path.parts[len(folder.parts) :]:
        if not folder.is_dir():
            break
        if not (folder / part).exists():
            names = [printable(entry.name) for entry in folder.iterdir() if not entry.name.startswith(".")]
            return f" ({printable(part)} is not in {printable(str(folder))}{did_you_mean(part, names)})"
        folder /= part
    return ""


def _suffix(file: Path) -> str:
    name = file.name.lower()
    return Path(name.removesuffix(".gz")).suffix
