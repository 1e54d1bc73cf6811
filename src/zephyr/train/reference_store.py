"""The reference's log-probabilities on the disk: computed once per model and sequence, never computed again.

A store is a folder of safetensors shards that any number of processes may read and append to at once. A
shard is named after the SHA-256 of its bytes, so damage is found before anything is read: a damaged shard is
set aside, and what it held is computed again. What fills a store is in `reference.py`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zephyr.atomic import discard, partial_folder, remove_leftovers, sync, write_file
from zephyr.errors import ResourceError
from zephyr.trees.forest import ScoredSequence

logger = logging.getLogger(__name__)

Logps = npt.NDArray[np.float64] | npt.NDArray[np.float32]

KEY_BYTES = 16


def sequence_key(sequence: ScoredSequence) -> bytes:
    """The key of a sequence: a hash of its token ids and of which of them are scored."""
    digest = hashlib.blake2b(len(sequence.ids).to_bytes(8, "little"), digest_size=KEY_BYTES)
    digest.update(np.ascontiguousarray(sequence.ids, dtype="<i8").data)
    digest.update(np.packbits(sequence.scored).data)
    return digest.digest()


class _Shard(NamedTuple):
    """What a shard holds. Shards sort by age: if two runs computed the same value, the older one counts."""

    age: tuple[int, str]
    origin: bytes
    keys: list[bytes]
    logps: list[float]


class ReferenceStore:
    """Log-probabilities of one reference by sequence key, kept in `folder`/`model_hash`.

    `model_hash` stands for all that its log-probabilities depend on: weights, configuration and precision, in
    hexadecimal. Opening a store removes what dead processes left half-written.
    """

    def __init__(self, folder: Path, model_hash: str) -> None:
        if not model_hash or set(model_hash) - set("0123456789abcdef"):
            raise ValueError(f"model_hash must be hexadecimal digits, got {model_hash!r}")
        self.folder = folder / model_hash
        self.folder.mkdir(parents=True, exist_ok=True)
        # Two processes may open the store, and so remove the same leftover, at the same moment.
        with suppress(FileNotFoundError):
            remove_leftovers(self.folder)
        self._shards: list[_Shard] = []
        self._seen: set[str] = set()
        self._index: dict[bytes, float] = {}
        self._pending: list[tuple[list[bytes], Logps]] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of `keys` that nobody has stored yet, other processes included."""
        self.refresh()
        return {key for key in keys if key not in self._index}

    def get(self, keys: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """(n,) float64 log-probabilities, one stored as float32 unchanged. Raises KeyError if one is missing."""
        absent = sum(key not in self._index for key in keys)
        if absent:
            raise KeyError(f"{absent} of {len(keys)} sequences are not in the reference store {self.folder}")
        return np.array([self._index[key] for key in keys], dtype=np.float64)

    def keys_from(self, origin: bytes) -> set[bytes]:
        """The keys that were flushed with this `origin`, by any process at any time."""
        return {key for shard in self._shards if shard.origin == origin for key in shard.keys}

    def add(self, keys: Sequence[bytes], logps: Logps) -> None:
        """Add values, which can be read here at once, and by others and later after `flush`.

        A key that is known already keeps its value; ``logps`` (n,). Raises ValueError for what cannot be stored.
        """
        if logps.shape != (len(keys),) or logps.dtype not in (np.float32, np.float64):
            raise ValueError(f"{len(keys)} keys need float32 or float64 logps, got {logps.dtype} {logps.shape}")
        if any(len(key) != KEY_BYTES for key in keys) or not np.isfinite(logps).all():
            raise ValueError("keys must come from sequence_key, and logps must be finite")
        fresh = {key: number for number, key in reversed(list(enumerate(keys))) if key not in self._index}
        if fresh:
            self._pending.append((list(fresh), logps[list(fresh.values())]))
            self._index.update((key, float(logps[number])) for key, number in fresh.items())

    def flush(self, origin: bytes = b"") -> None:
        """Write what was added since to the disk, as a shard of its own.

        Raises ResourceError naming the file if it cannot be written; what was added stays, so that another
        flush may succeed.
        """
        if not self._pending:
            return
        keys = b"".join(key for some, _ in self._pending for key in some)
        content = save(
            {
                "keys": np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES),
                # Of two widths the wider one results, which holds the narrower exactly.
                "logps": np.concatenate([logps for _, logps in self._pending]),
                "model": np.frombuffer(self.folder.name.encode(), dtype=np.uint8),
                "origin": np.frombuffer(origin, dtype=np.uint8),
            }
        )
        _write_whole(self.folder / f"{_digest(content)}.safetensors", content)
        self._pending.clear()
        # Read back like everybody's: a value that another run stored first counts here too from now on.
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have stored since, and set damaged shards aside."""
        fresh = [path for path in sorted(self.folder.glob("*.safetensors")) if path.name not in self._seen]
        found = [shard for path in fresh if (shard := self._read(path)) is not None]
        if not found:
            return
        self._shards = sorted([*self._shards, *found])
        for shard in reversed(self._shards):  # the oldest comes last, and so its value stays
            self._index.update(zip(shard.keys, shard.logps, strict=True))

    def _read(self, path: Path) -> _Shard | None:
        """The shard, or None if it is damaged or gone."""
        try:
            written_at = path.stat().st_mtime_ns
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        self._seen.add(path.name)
        shard: _Shard | str = "its bytes have changed"
        if path.stem == _digest(content):
            shard = _parse(content, age=(written_at, path.name), model_hash=self.folder.name)
        if isinstance(shard, _Shard):
            return shard
        # Another process may have been quicker, or the folder not be ours to change: it is not used anyway.
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.damaged"))
        logger.warning("%s is damaged (%s): its log-probs are not used but computed again", path, shard)
        return None


def _parse(content: bytes, *, age: tuple[int, str], model_hash: str) -> _Shard | str:
    """The shard in a file's bytes, or what is wrong with them."""
    try:
        arrays = load(content)
    except SafetensorError as error:
        return f"no safetensors file: {error}"
    if arrays.keys() != {"keys", "logps", "model", "origin"}:
        return f"it holds {', '.join(sorted(arrays))}"
    keys, logps = arrays["keys"], arrays["logps"]
    if arrays["model"].tobytes() != model_hash.encode():
        return "it belongs to another reference"
    if keys.shape != (len(logps), KEY_BYTES) or keys.dtype != np.uint8 or not np.isfinite(logps).all():
        return "its keys and log-probs do not fit together"
    return _Shard(age, arrays["origin"].tobytes(), [row.tobytes() for row in keys], logps.tolist())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    """Write the file whole, or not at all."""
    try:
        beside = partial_folder(path)
        try:
            write_file(beside / path.name, [content])
            (beside / path.name).replace(path)
        finally:
            discard(beside)
        sync(path.parent)
    except OSError as error:
        raise ResourceError(
            str(path),
            f"the reference's log-probs could not be stored, got '{error.strerror}'",
            "make room or choose another folder; what is stored already is kept",
        ) from error
