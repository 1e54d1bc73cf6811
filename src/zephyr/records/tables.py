"""Rows of CSV, TSV and Parquet files."""

import csv
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from zephyr.errors import DataError
from zephyr.records.fields import Json, Row, RowFault, brief, listed
from zephyr.records.lines import MAX_ROW_BYTES, lines_of, opened, too_long

_SURROGATE = re.compile("[\ud800-\udfff]")
_BATCH_ROWS = 256


def read_csv(path: Path, name: str, *, delimiter: str) -> Iterator[Row | RowFault]:
    """The rows of a table whose first line names the fields, all values texts. Raises DataError for a broken table."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with opened(path, name) as file:
        table = csv.reader(_text_lines(file, name), delimiter=delimiter, strict=True)
        header = _header(table, name)
        number = 0
        while True:
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = "look for an unclosed quotation mark; the rows after it cannot be separated"
                raise DataError(f"{name} row {number + 1}", f"is not a table row ({error})", remedy) from error
            if cells:
                number += 1
                yield _table_row(header, cells, f"{name} row {number}")


def _text_lines(file: BinaryIO, name: str) -> Iterator[str]:
    for line in lines_of(file):
        if line.content is None:
            raise DataError(f"{name} line {line.number}", too_long(), "split the line, or remove the row")
        # Bytes that are not UTF-8 become lone surrogates, and so a fault of their row alone.
        yield line.content.decode("utf-8", "surrogateescape") + ("\n" if line.has_end else "")


def _header(table: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = next(table, [])
    except csv.Error as error:
        remedy = "fix the first line, which holds the names of the fields"
        raise DataError(name, f"has no header ({error})", remedy) from error
    if _SURROGATE.search("".join(header)):
        raise DataError(name, "the header is not UTF-8", "convert the file, for example with iconv -t UTF-8")
    repeated = {cell for cell in header if header.count(cell) > 1}
    if repeated:
        raise DataError(name, f"the header names {listed(sorted(repeated))} twice", "give every column its own name")
    return header


def _table_row(header: list[str], cells: list[str], name: str) -> Row | RowFault:
    if len(cells) != len(header):
        what = f"has {len(cells)} cells where the header names {len(header)} fields"
        return RowFault(name, "wrong number of cells", what)
    for field, cell in zip(header, cells, strict=True):
        if _SURROGATE.search(cell):
            what = f"field {brief(field)} is not UTF-8; convert the file, for example with iconv -t UTF-8"
            return RowFault(name, "not UTF-8", what)
    return Row(name, dict(zip(header, cells, strict=True)))


class _Batch(Protocol):
    def to_pylist(self) -> list[dict[str, Json]]: ...


class _ParquetFile(Protocol):
    def iter_batches(self, *, batch_size: int) -> Iterable[_Batch]: ...


class _Parquet(Protocol):
    def ParquetFile(self, source: BinaryIO) -> _ParquetFile: ...  # noqa: N802 - the library's name


def without_absent_keys(fields: Mapping[str, Json]) -> dict[str, Json]:
    """The fields of a row of an Arrow table, without the keys that are null in objects inside of a column.

    Arrow gives every object of a column the keys of all of them: the arguments of one tool to the calls of the others.
    """
    return {name: _as_written(value) for name, value in fields.items()}


def _as_written(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _as_written(held) for key, held in value.items() if held is not None}
    return [_as_written(held) for held in value] if isinstance(value, list) else value


def read_parquet(path: Path, name: str) -> Iterator[Row | RowFault]:
    """The rows of a Parquet file, read in batches. Raises DataError for a broken file, or without pyarrow."""
    try:
        parquet = cast("_Parquet", importlib.import_module("pyarrow.parquet"))
    except ImportError as error:
        remedy = "pip install 'zephyr-align[hub]', or write the rows as JSONL"
        raise DataError(name, "Parquet files need the package pyarrow, which is not installed", remedy) from error
    with opened(path, name) as file:
        number = 0
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{name} row {number}", without_absent_keys(fields))
        except (ValueError, OSError) as error:
            what = f"is not a complete Parquet file ({brief(str(error))})"
            raise DataError(f"{name}, after row {number}", what, "download or write the file again") from error
