"""The reference of preference training: who it is, and how its log-probs are computed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import ScoredRow, device_of, frozen, score_rows, unique_tokens
from zephyr.models.collectives import on_every_rank, rank, world_size
from zephyr.models.scorer import ForestScorer
from zephyr.train.reference_store import Logps, ReferenceStore, sequence_key
from zephyr.trees.budget import cut_micro_batches

# Long enough for few shards, short enough that a killed run repeats little.
FLUSH_SECONDS = 60.0


class FillReport(NamedTuple):
    """How many log-probabilities were computed now, how many were there already, and how long it took."""

    computed: int
    reused: int
    seconds: float


def describe_reference(name: str, model_hash: str, *, adapters_off: bool = False) -> str:
    """The line of the log that says who the reference is; `name` is a folder, a hub id, or "the policy"."""
    return f"reference: {name}{' with its adapters off' if adapters_off else ''}, weights {model_hash[:12]}"


def fill_reference(
    store: ReferenceStore,
    scorer: ForestScorer,
    rows: Sequence[ScoredRow],
    *,
    max_tokens: int,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FillReport:
    """What was done to have the log-probability of every sequence in `store`; a collective call.

    Every rank passes the same rows, which may be a lazy sequence, and calls within training's autocast.
    Ranks share the work, in micro-batches of at most `max_tokens` unique tokens; a row's sequences share a
    forest, as in training. `progress` is called with the rows done and to be done. Raises InvariantError
    naming a row whose log-probability is not finite, DataError for one above `max_tokens`.
    """
    began = time.monotonic()
    keys = [[sequence_key(sequence) for sequence in row] for row in rows]
    num_distinct = len({key for some in keys for key in some})
    # Where ranks see different folders, what one of them misses all of them compute.
    wanted = set().union(*on_every_rank(lambda: store.missing(key for some in keys for key in some)))
    if wanted:
        work = _Work(store, scorer, rows, keys, names)
        _compute(work, wanted, max_tokens, progress)
    return FillReport(len(wanted), num_distinct - len(wanted), time.monotonic() - began)


class _Work(NamedTuple):
    """What a fill is made of; `keys` of every row's sequences."""

    store: ReferenceStore
    scorer: ForestScorer
    rows: Sequence[ScoredRow]
    keys: list[list[bytes]]
    names: Sequence[str] | None

    def name(self, row: int) -> str:
        return f"example {row}" if self.names is None else self.names[row]


def _compute(work: _Work, wanted: set[bytes], max_tokens: int, progress: Callable[[int, int], None] | None) -> None:
    """Score, exchange and store, round by round: in each, every rank runs one micro-batch."""
    origin = _origin(work.keys, max_tokens)
    rounds = _rounds(work, wanted, origin, max_tokens)
    num_rows = sum(len(batch) for batches in rounds for batch in batches)
    from_others: list[tuple[list[bytes], Logps]] = []
    flushed_at, num_done = time.monotonic(), 0
    for batches in rounds:
        results = on_every_rank(partial(_score, work, batches[rank()]))
        work.store.add(*results.pop(rank()))
        from_others += results
        # Ranks decide together, so that a failure to write is raised on all of them.
        is_due = time.monotonic() - flushed_at > FLUSH_SECONDS
        if any(on_every_rank(partial(bool, is_due))):
            on_every_rank(lambda: work.store.flush(origin))
            flushed_at = time.monotonic()
        num_done += sum(len(batch) for batch in batches)
        if progress is not None:
            progress(num_done, num_rows)
    on_every_rank(lambda: work.store.flush(origin))
    # On a common disk this finds all that the others wrote. What it does not find is on another machine's.
    work.store.refresh()
    for keys, logps in from_others:
        work.store.add(keys, logps)
    on_every_rank(lambda: work.store.flush(origin))


def _origin(keys: list[list[bytes]], max_tokens: int) -> bytes:
    """A name for this fill: the same rows, in the same order, cut in the same way."""
    digest = hashlib.blake2b(f"{max_tokens} {world_size()}".encode(), digest_size=16)
    for some in keys:
        digest.update(b"".join(some) + b"\n")
    return digest.digest()


def _rounds(work: _Work, wanted: set[bytes], origin: bytes, max_tokens: int) -> list[tuple[list[int], ...]]:
    """The micro-batches (lists of rows) of every rank, one a round, in which a wanted key occurs.

    A number's last bits depend on what else is in its micro-batch. So a fill that was killed is cut again as
    it was before, with what it had stored by then, and a resumed run equals an uninterrupted one to the bit.
    """
    stored = set().union(*on_every_rank(lambda: work.store.keys_from(origin)))
    rows = _covering(work.keys, wanted | stored)
    shares = cut_micro_batches(
        unique_tokens([work.rows[row] for row in rows]),
        max_tokens=max_tokens,
        world_size=world_size(),
        names=[work.name(row) for row in rows],
    )
    rounds = []
    for batches in zip(*shares, strict=True):
        cut = tuple([rows[index] for index in batch] for batch in batches)
        if any(not wanted.isdisjoint(work.keys[row]) for batch in cut for row in batch):
            rounds.append(cut)
    return rounds


def _covering(keys: list[list[bytes]], wanted: set[bytes]) -> list[int]:
    """The first rows, in order, that hold every wanted key."""
    still = set(wanted)
    rows = []
    for row, some in enumerate(keys):
        if not still.isdisjoint(some):
            rows.append(row)
            still.difference_update(some)
    return rows


def _score(work: _Work, batch: list[int]) -> tuple[list[bytes], Logps]:
    """The keys and log-probabilities of all sequences of some rows, laid out as one forest."""
    rows = [work.rows[row] for row in batch]
    num_columns = max(map(len, rows), default=1)
    with frozen(work.scorer):
        table = score_rows(work.scorer, rows, num_columns, device_of(work.scorer))
        by_row = table.logps.cpu().numpy()
    parts = [values[: len(row)] for values, row in zip(by_row, rows, strict=True)]
    logps: Logps = np.concatenate([by_row[:0, 0], *parts])
    if not np.isfinite(logps).all():
        broken = next(n for n, values in enumerate(by_row) if not np.isfinite(values).all())
        raise InvariantError(
            "reference log-probs",
            f"those of {work.name(batch[broken])} are not finite, got {by_row[broken].tolist()}",
            "check the reference for non-finite weights, or compute it in float32",
        )
    return [key for row in batch for key in work.keys[row]], logps
