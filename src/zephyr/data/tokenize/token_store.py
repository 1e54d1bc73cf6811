"""Tokenised rows on disk, written as they come and read through memory maps, so that any number costs no memory.

A store is a folder of .npy files, one a column, beside a manifest with the SHA-256 of each; it appears when all rows
are written. Sequences lie end to end in `ids`; `offsets` says where each begins, and in a store of preferences `rows`
says which sequences make a row: its prompt, then its completions.
"""

import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from zephyr.atomic import FileRecord, find_damage, partial_folder, publish, write_file
from zephyr.data.tokenize.plain_text import TokenIds
from zephyr.errors import DataError

LossMask = npt.NDArray[np.bool_]
StoreKind = Literal["dialogues", "preferences"]
_Stored = TypeVar("_Stored")
Slice: TypeAlias = "slice[int | None, int | None, int | None]"

STORE_SUMMARY = "tokens.json"
STORE_FORMAT = 1
_BUFFER_BYTES = 1 << 20

# The columns of each kind and their dtypes; bools are packed eight to a byte.
_TEXT_COLUMNS = {"names": "|u1", "name_offsets": "<i8"}
COLUMNS: dict[StoreKind, dict[str, str]] = {
    "dialogues": {"ids": "<i4", "offsets": "<i8", "scored": "|u1", **_TEXT_COLUMNS},
    "preferences": {"ids": "<i4", "offsets": "<i8", "rows": "<i8", "ratings": "<f8", **_TEXT_COLUMNS},
}


class Dialogue(NamedTuple):
    """Tokens to imitate: ``ids`` (n,) int64; ``scored`` (n,) bool, the ones that count, never the first.

    ``name`` says where the example comes from ("chats.jsonl row 17"), for messages.
    """

    name: str
    ids: TokenIds
    scored: LossMask


class Comparison(NamedTuple):
    """A prompt and its rated completions, best first; all ids (n,) int64, one finite rating a completion.

    A pair holds two completions, chosen first. For unpaired feedback (KTO) there is one completion, rated 1.0
    if it is desirable and 0.0 if not.
    """

    name: str
    prompt: TokenIds
    completions: tuple[TokenIds, ...]
    ratings: tuple[float, ...]


Example: TypeAlias = Dialogue | Comparison


class TokenStore(Sequence[_Stored]):
    """The rows of a published store, each read from disk on access.

    With `verify` the bytes of all files are hashed first; without, only names and sizes are checked. Raises DataError
    for a damaged store or one of the other kind.
    """

    def __init__(self, folder: Path, kind: StoreKind, *, verify: bool) -> None:
        damage = find_damage(folder, contents=verify) if folder.is_dir() else "there is no such folder"
        if damage is None:
            damage = _other_content(folder, kind)
        if damage is not None:
            raise DataError(f"token store {folder}", damage, "delete this folder and run again to rebuild it")
        self.folder = folder
        # Views of the memory maps: nothing is read yet.
        self._ids = np.asarray(self._map("ids"), np.int32)
        self._offsets = np.asarray(self._map("offsets"), np.int64)
        self._names = np.asarray(self._map("names"), np.uint8)
        self._name_offsets = np.asarray(self._map("name_offsets"), np.int64)

    def __len__(self) -> int:
        return len(self._name_offsets) - 1

    @overload
    def __getitem__(self, index: int) -> _Stored: ...
    @overload
    def __getitem__(self, index: Slice) -> list[_Stored]: ...
    def __getitem__(self, index: "int | Slice") -> _Stored | list[_Stored]:
        if isinstance(index, slice):
            return [self._row(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._row(index % len(self))

    @property
    def num_tokens(self) -> int:
        """The tokens of all rows; a prompt counts once, however many completions it has."""
        return len(self._ids)

    @abstractmethod
    def lengths(self) -> TokenIds:
        """The number of tokens of each row, (rows,); a prompt counts once."""

    @abstractmethod
    def _row(self, index: int) -> _Stored:
        """The row with this number, which is in range."""

    def _map(self, column: str) -> object:
        return np.load(self.folder / f"{column}.npy", mmap_mode="r", allow_pickle=False)

    def _name(self, index: int) -> str:
        return self._names[self._name_offsets[index] : self._name_offsets[index + 1]].tobytes().decode()

    def _sequence(self, index: int) -> TokenIds:
        return self._ids[self._offsets[index] : self._offsets[index + 1]].astype(np.int64)


class DialogueStore(TokenStore[Dialogue]):
    """_Stored dialogues."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        super().__init__(folder, "dialogues", verify=verify)
        self._scored = np.asarray(self._map("scored"), np.uint8)

    def lengths(self) -> TokenIds:
        return np.diff(self._offsets)

    def _row(self, index: int) -> Dialogue:
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        first = start // 8
        bits = np.unpackbits(self._scored[first : -(-end // 8)])
        scored = bits[start - 8 * first : end - 8 * first].astype(np.bool_)
        return Dialogue(self._name(index), self._sequence(index), scored)


class PreferenceStore(TokenStore[Comparison]):
    """_Stored preferences."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        super().__init__(folder, "preferences", verify=verify)
        self._rows = np.asarray(self._map("rows"), np.int64)
        self._ratings = np.asarray(self._map("ratings"), np.float64)

    def lengths(self) -> TokenIds:
        return np.diff(self._offsets[self._rows])

    def _row(self, index: int) -> Comparison:
        prompt, end = int(self._rows[index]), int(self._rows[index + 1])
        completions = tuple(self._sequence(number) for number in range(prompt + 1, end))
        # Every row before this one has a prompt, which has no rating.
        ratings = self._ratings[prompt - index : end - index - 1]
        return Comparison(self._name(index), self._sequence(prompt), completions, tuple(map(float, ratings)))


def _other_content(folder: Path, kind: StoreKind) -> str | None:
    """Why an undamaged folder is not a store of this kind, or None if it is."""
    path = folder / STORE_SUMMARY
    if not path.exists():
        return f"{STORE_SUMMARY} is missing"
    summary = json.loads(path.read_bytes())
    if summary["format"] != STORE_FORMAT:
        return f"is of format {summary['format']!r}, this version reads {STORE_FORMAT}"
    if summary["kind"] != kind:
        return f"holds {summary['kind']} where {kind} are needed"
    return None


class TokenWriter:
    """Writes a store; a context manager that publishes `folder` on exit, and leaves nothing after an exception."""

    def __init__(self, folder: Path, kind: StoreKind) -> None:
        self._final = folder
        self._kind = kind
        self._partial = partial_folder(folder)
        self._columns = {name: _Column(self._partial / f"{name}.npy", form) for name, form in COLUMNS[kind].items()}
        self._num_tokens = 0
        self._num_sequences = 0
        self._num_rows = 0
        self._num_name_bytes = 0
        self._bits = np.zeros(0, np.bool_)  # the last bits of `scored`, less than a byte
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

    def _add_sequence(self, ids: TokenIds) -> None:
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
        summary = {"format": STORE_FORMAT, "kind": self._kind, "rows": self._num_rows, "tokens": self._num_tokens}
        records[STORE_SUMMARY] = write_file(self._partial / STORE_SUMMARY, [json.dumps(summary, indent=1).encode()])
        publish(self._partial, self._final, records)


class _Column:
    """A growing .npy file; its header is rewritten at the end, when the length is known."""

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
