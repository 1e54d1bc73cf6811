"""Tokenised rows on disk, read through memory maps, so that any number of them costs no memory.

A store is a folder of .npy files, one a column, beside a manifest with the SHA-256 of each. Sequences lie end to
end in `ids`; `offsets` says where each begins, and in a store of preferences `rows` says which sequences make a
row: its prompt, then its completions. Writing one is token_writer's part; where its folder lies and what makes it
stale is the caller's knowledge.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from zephyr.atomic import find_damage
from zephyr.data.tokenize.plain_text import Ids
from zephyr.errors import DataError

Mask = npt.NDArray[np.bool_]
Kind = Literal["dialogues", "preferences"]
Row = TypeVar("Row")
Slice: TypeAlias = "slice[int | None, int | None, int | None]"

SUMMARY = "tokens.json"
FORMAT = 1

# The columns of each kind and what their numbers are; bools are packed eight to a byte.
_TEXT_COLUMNS = {"names": "|u1", "name_offsets": "<i8"}
COLUMNS: dict[Kind, dict[str, str]] = {
    "dialogues": {"ids": "<i4", "offsets": "<i8", "scored": "|u1", **_TEXT_COLUMNS},
    "preferences": {"ids": "<i4", "offsets": "<i8", "rows": "<i8", "ratings": "<f8", **_TEXT_COLUMNS},
}


class Dialogue(NamedTuple):
    """Tokens to imitate: ``ids`` (n,) int64; ``scored`` (n,) bool, the ones that count, never the first.

    ``name`` says where the example comes from ("chats.jsonl row 17"), for messages.
    """

    name: str
    ids: Ids
    scored: Mask


class Comparison(NamedTuple):
    """A prompt and its rated completions, best first; all ids (n,) int64, one finite rating a completion.

    A pair holds two completions, chosen first. For unpaired feedback (KTO) there is one completion, rated 1.0
    if it is desirable and 0.0 if not.
    """

    name: str
    prompt: Ids
    completions: tuple[Ids, ...]
    ratings: tuple[float, ...]


Example: TypeAlias = Dialogue | Comparison


class TokenStore(Sequence[Row]):
    """The rows of a published store, each read from the disk when it is asked for.

    With `verify` the bytes of all files are hashed first; without, only their names and sizes are looked at.
    """

    def __init__(self, folder: Path, kind: Kind, *, verify: bool) -> None:
        damage = find_damage(folder, contents=verify) if folder.is_dir() else "there is no such folder"
        if damage is None:
            damage = _other_content(folder, kind)
        if damage is not None:
            raise DataError(f"token store {folder}", damage, "remove this folder and run again; it is made anew")
        self.folder = folder
        # Views of the maps: nothing is read yet.
        self._ids = np.asarray(self._map("ids"), np.int32)
        self._offsets = np.asarray(self._map("offsets"), np.int64)
        self._names = np.asarray(self._map("names"), np.uint8)
        self._name_offsets = np.asarray(self._map("name_offsets"), np.int64)

    def __len__(self) -> int:
        return len(self._name_offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: Slice) -> list[Row]: ...
    def __getitem__(self, index: "int | Slice") -> Row | list[Row]:
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
    def lengths(self) -> Ids:
        """The number of tokens of each row, (rows,); a prompt counts once."""

    @abstractmethod
    def _row(self, index: int) -> Row:
        """The row with this number, which is in range."""

    def _map(self, column: str) -> object:
        return np.load(self.folder / f"{column}.npy", mmap_mode="r", allow_pickle=False)

    def _name(self, index: int) -> str:
        return self._names[self._name_offsets[index] : self._name_offsets[index + 1]].tobytes().decode()

    def _sequence(self, index: int) -> Ids:
        return self._ids[self._offsets[index] : self._offsets[index + 1]].astype(np.int64)


class DialogueStore(TokenStore[Dialogue]):
    """Stored dialogues."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        super().__init__(folder, "dialogues", verify=verify)
        self._scored = np.asarray(self._map("scored"), np.uint8)

    def lengths(self) -> Ids:
        return np.diff(self._offsets)

    def _row(self, index: int) -> Dialogue:
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        first = start // 8
        bits = np.unpackbits(self._scored[first : -(-end // 8)])
        scored = bits[start - 8 * first : end - 8 * first].astype(np.bool_)
        return Dialogue(self._name(index), self._sequence(index), scored)


class PreferenceStore(TokenStore[Comparison]):
    """Stored preferences."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        super().__init__(folder, "preferences", verify=verify)
        self._rows = np.asarray(self._map("rows"), np.int64)
        self._ratings = np.asarray(self._map("ratings"), np.float64)

    def lengths(self) -> Ids:
        return np.diff(self._offsets[self._rows])

    def _row(self, index: int) -> Comparison:
        prompt, end = int(self._rows[index]), int(self._rows[index + 1])
        completions = tuple(self._sequence(number) for number in range(prompt + 1, end))
        # Every row before this one has a prompt, which has no rating.
        ratings = self._ratings[prompt - index : end - index - 1]
        return Comparison(self._name(index), self._sequence(prompt), completions, tuple(map(float, ratings)))


def _other_content(folder: Path, kind: Kind) -> str | None:
    """Why the folder, though whole, is not a store of this kind, or None if it is."""
    path = folder / SUMMARY
    if not path.exists():
        return f"{SUMMARY} is missing"
    summary = json.loads(path.read_bytes())
    if summary["format"] != FORMAT:
        return f"is of format {summary['format']!r}, this version reads {FORMAT}"
    if summary["kind"] != kind:
        return f"holds {summary['kind']} where {kind} are needed"
    return None
