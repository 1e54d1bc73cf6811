"""Writing a token store: rows go to the disk as they come, and the folder appears when all of them are there."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from zephyr.atomic import FileRecord, partial_folder, publish, write_file
from zephyr.data.tokenize.plain_text import Ids
from zephyr.data.tokenize.token_store import COLUMNS, FORMAT, SUMMARY, Comparison, Dialogue, Example, Kind

_BUFFER_BYTES = 1 << 20


class TokenWriter:
    """Writes one store; a context manager that publishes `folder` at its end, or leaves nothing after an exception."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._final = folder
        self._kind = kind
        self._partial = partial_folder(folder)
        self._columns = {name: _Column(self._partial / f"{name}.npy", form) for name, form in COLUMNS[kind].items()}
        self._num_tokens = 0
        self._num_sequences = 0
        self._num_rows = 0
        self._num_name_bytes = 0
        self._bits = np.zeros(0, np.bool_)  # of `scored`, those that fill no byte yet
        for name in self._columns.keys() & {"offsets", "rows", "name_offsets"}:
            self._columns[name].append([0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._publish()
            return
        for column in self._columns.values():
            column.abandon()
        shutil.rmtree(self._partial)

    def add(self, example: Example) -> None:
        """Write the example as the store's last row."""
        if isinstance(example, Dialogue):
            self._add_dialogue(example)
        else:
            self._add_comparison(example)

    def _add_dialogue(self, dialogue: Dialogue) -> None:
        assert self._kind == "dialogues"
        assert len(dialogue.ids) == len(dialogue.scored)
        self._add_sequence(dialogue.ids)
        bits = np.concatenate([self._bits, dialogue.scored])
        whole = len(bits) // 8 * 8
        self._columns["scored"].append(np.packbits(bits[:whole]))
        self._bits = bits[whole:]
        self._end_row(dialogue.name)

    def _add_comparison(self, comparison: Comparison) -> None:
        assert self._kind == "preferences"
        assert len(comparison.completions) == len(comparison.ratings)
        for ids in (comparison.prompt, *comparison.completions):
            self._add_sequence(ids)
        self._columns["ratings"].append(comparison.ratings)
        self._columns["rows"].append([self._num_sequences])
        self._end_row(comparison.name)

    def _add_sequence(self, ids: Ids) -> None:
        assert not len(ids) or (ids.min() >= 0 and ids.max() < 1 << 31)
        self._num_tokens += len(ids)
        self._num_sequences += 1
        self._columns["ids"].append(ids)
        self._columns["offsets"].append([self._num_tokens])

    def _end_row(self, name: str) -> None:
        encoded = name.encode("utf-8", "backslashreplace")
        self._num_rows += 1
        self._num_name_bytes += len(encoded)
        self._columns["names"].append(np.frombuffer(encoded, np.uint8))
        self._columns["name_offsets"].append([self._num_name_bytes])

    def _publish(self) -> None:
        if "scored" in self._columns:
            self._columns["scored"].append(np.packbits(self._bits))
        records = {f"{name}.npy": column.close() for name, column in self._columns.items()}
        summary = {"format": FORMAT, "kind": self._kind, "rows": self._num_rows, "tokens": self._num_tokens}
        records[SUMMARY] = write_file(self._partial / SUMMARY, [json.dumps(summary, indent=1).encode()])
        publish(self._partial, self._final, records)


class _Column:
    """One .npy file that grows; the header is written again at the end, when the length is known."""

    def __init__(self, path: Path, form: str) -> None:
        self._path = path
        self._form = form
        self._length = 0
        self._file = path.open("xb", buffering=_BUFFER_BYTES)
        self._write_header()
        self._header_bytes = self._file.tell()

    def append(self, values: npt.ArrayLike) -> None:
        array = np.ascontiguousarray(values, dtype=self._form)
        self._length += len(array)
        self._file.write(array.data)

    def close(self) -> FileRecord:
        num_bytes = self._file.tell()
        self._file.seek(0)
        self._write_header()
        # numpy leaves room in the header for a length of any number of digits.
        assert self._file.tell() == self._header_bytes
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with self._path.open("rb") as file:
            return FileRecord(num_bytes, hashlib.file_digest(file, "sha256").hexdigest())

    def abandon(self) -> None:
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._form, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
