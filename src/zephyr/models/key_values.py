"""The keys and values of everything that is being written: shared stretches held once, and the rows that grow.

A prompt's beginning that several samples share is a `CacheSegment` of a tree; what is a sample's own stands in a row
of a pool, with room to grow in place, and is moved only where the row has outgrown it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from torch import Tensor

from zephyr.models.host_memory import new_mapped
from zephyr.models.lookahead import Lookup
from zephyr.models.samples import Sample
from zephyr.trees.forest import Ids

# Capacities of rows: each is at most half as long again as the one before, so that little of a pool is padding.
CAPACITIES = [64, 96, 128, *(base * 2**power // 2 for power in range(7, 40) for base in (3, 4))]
# Rows that a pool gains at a time, at least.
MORE_ROWS = 4
# Padding of a pool's rows, in a layer, that takes no longer to read than the calls of one more pool.
CHEAP_PADDING_BYTES = 1 << 19


class CacheSegment:
    """The keys and values (H, n, D) of a stretch of n tokens behind those of `path`, a layer each; made as computed."""

    def __init__(self, ids: Ids, path: tuple["CacheSegment", ...]) -> None:
        self.ids, self.path = ids, path
        self.start = sum(len(one.ids) for one in path)
        self.num_computed = 0
        #: Samples that need it, those that were seen to need it when it was made, and when the last of them came.
        self.num_users, self.num_expected = 0, 1
        self.used_at = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def num_left(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.ids) - self.num_computed

    def write(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Take the keys and values (H, k, D) of its tokens from `first` on."""
        if layer == len(self.keys):
            self.keys.append(keys.new_empty(keys.shape[0], len(self.ids), keys.shape[2]))
            self.values.append(values.new_empty(values.shape[0], len(self.ids), values.shape[2]))
        self.keys[layer][:, first : first + keys.shape[1]] = keys
        self.values[layer][:, first : first + keys.shape[1]] = values


@dataclass(eq=False)
class CacheRow:
    """A sample at work: the shared stretches of its prompt, and how many tokens of its own its row holds.

    `rest`: the prompt behind `path`, until all of it is computed and the row has its place. From then on `path` is its
    first `num_read` segments, which are read where they stand; the row has a copy of the others.
    """

    sample: Sample
    path: tuple[CacheSegment, ...]
    rest: CacheSegment | None
    num_read: int
    length: int = 0
    lookup: Lookup | None = None
    #: How many tokens were written when the last ones were guessed; None where all are counted in `length`.
    guessed_behind: int | None = None

    def guess(self) -> list[int]:
        """What a greedy sample may say behind its newest token; nothing for another one, and where there is no hint."""
        if not self.sample.is_greedy:
            return []
        self.lookup = self.lookup or Lookup(self.sample)
        return self.lookup.guess()

    @property
    def start(self) -> int:
        """The position of the first token of its own."""
        return sum(len(segment.ids) for segment in self.path)

    @property
    def num_tokens(self) -> int:
        """Tokens of its own that are held, or soon will be."""
        copied = sum(len(segment.ids) for segment in self.path[self.num_read :])
        return self.length if self.rest is None else copied + len(self.rest.ids)

    @property
    def is_covered(self) -> bool:
        """Whether the path has all of the prompt but its last token, which is computed as new tokens are."""
        return bool(self.path) and self.rest is not None and len(self.rest.ids) == 1

    @property
    def to_compute(self) -> tuple[CacheSegment, ...]:
        """What has to be computed before the row has its place."""
        if self.rest is None:
            return ()
        return self.path if self.is_covered else (*self.path, self.rest)


class RowPool:
    """Rows of at most `capacity` tokens, side by side: keys and values (R, H, capacity, D), a layer each."""

    def __init__(self, capacity: int, like: CacheSegment) -> None:
        self.capacity = capacity
        self.rows: list[CacheRow] = []
        self.keys = [keys.new_zeros(0, keys.shape[0], capacity, keys.shape[2]) for keys in like.keys]
        self.values = [values.new_zeros(0, values.shape[0], capacity, values.shape[2]) for values in like.values]

    def add(self, row: CacheRow, parts: Sequence[CacheSegment]) -> None:
        """Add a row whose own tokens are those of `parts`, one behind the other."""
        place = len(self.rows)
        for rooms, given in ((self.keys, [one.keys for one in parts]), (self.values, [one.values for one in parts])):
            for layer, room in enumerate(rooms):
                if place == len(room):
                    rooms[layer] = _resized(room, place + _spare(place))
                own, first = rooms[layer][place], 0
                for part, tensors in zip(parts, given, strict=True):
                    own[:, first : first + len(part.ids)] = tensors[layer][:, : len(part.ids)]
                    first += len(part.ids)
                # What a mask multiplies must be a number, whoever was here before.
                own[:, first:] = 0
        self.rows.append(row)

    def remove(self, row: CacheRow) -> None:
        """Drop a row; the last one takes its place."""
        place, last = self.rows.index(row), len(self.rows) - 1
        for room in (*self.keys, *self.values):
            if place != last:
                room[place, :, : self.rows[last].length] = room[last, :, : self.rows[last].length]
        self.rows[place] = self.rows[last]
        del self.rows[last]
        # A pool is there as long as one row is, and most rows move on to longer ones.
        if 2 * len(self.rows) + MORE_ROWS < len(self.keys[0]):
            size = len(self.rows) + _spare(len(self.rows))
            for held in (self.keys, self.values):
                for layer, room in enumerate(held):
                    held[layer] = _resized(room, size)

    def is_cheap_for(self, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths beside its own are padded by little."""
        together = [*lengths, *(row.length for row in self.rows)]
        padding = len(together) * max(together) - sum(together)
        token_bytes = sum(room[0].shape[1] * room[0].shape[3] * room[0].itemsize for room in (self.keys, self.values))
        return max(together) < self.capacity and padding * token_bytes <= CHEAP_PADDING_BYTES

    def write(self, layer: int, places: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """Take the keys and values (T, H, D) of the rows' new tokens; `places`: rows (T,) and places in them (T,)."""
        rows, lengths = places
        if len(self.rows) == 1:  # what several rows need costs one as much as its attention
            new = slice(self.rows[0].length, self.rows[0].length + len(keys))
            self.keys[layer][0, :, new], self.values[layer][0, :, new] = keys.transpose(0, 1), values.transpose(0, 1)
            return
        self.keys[layer][rows, :, lengths] = keys
        self.values[layer][rows, :, lengths] = values


def _spare(num_rows: int) -> int:
    """How many more rows than these a pool has room for when it is made anew."""
    return max(MORE_ROWS, num_rows // 4)


def _resized(room: Tensor, num_rows: int) -> Tensor:
    """Room for so many rows, with those of ``room`` (R, ...) that are among them."""
    resized, kept = new_mapped((num_rows, *room.shape[1:]), room), min(num_rows, len(room))
    resized[:kept] = room[:kept]
    return resized


@dataclass
class KeyValues:
    """All that is held: the tree of shared segments, and the pools of rows, by capacity."""

    segments: list[CacheSegment] = field(default_factory=list)
    pools: dict[int, RowPool] = field(default_factory=dict)
    clock: int = 0

    @property
    def rows(self) -> list[CacheRow]:
        """The rows that have their place, in the order of a step's tokens."""
        return [row for pool in self.pools.values() for row in pool.rows]

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys and values are held in segments and placed rows, those to come in segments included."""
        return sum(len(segment.ids) for segment in self.segments) + sum(row.length for row in self.rows)

    def match(self, ids: Ids) -> tuple[CacheSegment, ...]:
        """The segments, one behind the other, that together begin `ids` and reach furthest."""
        path: tuple[CacheSegment, ...] = ()
        depth = 0
        while depth < len(ids):
            following = [
                one
                for one in self.segments
                if one.path == path
                and one.ids[0] == ids[depth]
                and np.array_equal(ids[depth : depth + len(one.ids)], one.ids)
            ]
            if not following:
                break
            longest = max(following, key=lambda one: len(one.ids))
            path, depth = (*path, longest), depth + len(longest.ids)
        return path

    def use(self, row: CacheRow) -> None:
        """Hold the segments of the row's path."""
        self.clock += 1
        for segment in row.path:
            segment.num_users += 1
            segment.used_at = self.clock

    def place(self, row: CacheRow) -> None:
        """Give a row whose prompt is computed, but for what `is_covered` says, its place in a pool."""
        assert row.rest is not None
        copied = row.path[row.num_read :]
        parts = copied if row.is_covered else (*copied, row.rest)
        like = row.path[-1] if row.is_covered else row.rest
        row.rest, row.path, row.length = None, row.path[: row.num_read], sum(len(part.ids) for part in parts)
        for segment in copied:
            segment.num_users -= 1
        self._pool(row.length + 1, like).add(row, parts)

    def drop(self, row: CacheRow) -> None:
        """Let go of a row and its segments; those are kept while there is room."""
        for segment in row.path:
            segment.num_users -= 1
        # One that is not whole would wait for ever.
        self.segments = [one for one in self.segments if one.num_users or not one.num_left]
        for pool in [pool for pool in self.pools.values() if row in pool.rows]:
            self._leave(pool, row)

    def make_room(self) -> None:
        """Move the rows that are full into pools of longer rows, and few rows to others, which are padded by little."""
        for pool in list(self.pools.values()):
            for row in [row for row in pool.rows if row.length == pool.capacity]:
                self._move(row, pool)
        for shorter, longer in pairwise(sorted(self.pools)):
            if self.pools[longer].is_cheap_for([row.length for row in self.pools[shorter].rows]):
                pool = self.pools[shorter]
                for row in reversed(pool.rows):
                    self._move(row, pool, self.pools[longer])

    def forget(self) -> bool:
        """Drop the segment that nobody has used for longest; whether there was one."""
        inner = {segment for other in self.segments for segment in other.path}
        unused = [one for one in self.segments if not one.num_users and one not in inner]
        if unused:
            self.segments.remove(min(unused, key=lambda one: one.used_at))
        return bool(unused)

    @property
    def num_unused(self) -> int:
        """Segments that are kept for those to come alone."""
        return sum(not one.num_users for one in self.segments)

    def _move(self, row: CacheRow, pool: RowPool, to: RowPool | None = None) -> None:
        """Move a row from one pool to another, by its length unless told."""
        place, whole = pool.rows.index(row), CacheSegment(np.zeros(row.length, dtype=np.int64), ())
        whole.keys, whole.values = ([room[place] for room in held] for held in (pool.keys, pool.values))
        (to or self._pool(row.length + 1, whole)).add(row, [whole])
        self._leave(pool, row)

    def _leave(self, pool: RowPool, row: CacheRow) -> None:
        pool.remove(row)
        if not pool.rows:
            del self.pools[pool.capacity]

    def _pool(self, num_tokens: int, like: CacheSegment) -> RowPool:
        capacity = next(one for one in CAPACITIES if one >= num_tokens)
        longer = min((one for one in self.pools if one > capacity), default=None)
        if capacity not in self.pools and longer is not None and self.pools[longer].is_cheap_for([num_tokens - 1]):
            return self.pools[longer]
        if capacity not in self.pools:
            self.pools[capacity] = RowPool(capacity, like)
        return self.pools[capacity]
