"""Rows of keys and values that decode together, to which rows are added and from which they are dropped.

All rows stand flush right, so that index distance is token distance, which sliding windows count in.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from zephyr.models.prefill import Path, PreallocatedLayer, path_length, select_rows

# Tokens that a batch may grow by before its tensors are made again.
ROOM_TOKENS = 128
# Rows whose lengths differ by more decode in batches of their own: padding would cost more than a second step.
CLOSE_TOKENS = 256

Owner = TypeVar("Owner")


class DecodingBatch(Generic[Owner]):
    """R rows, each of an owner. `width`: tokens in the cache, padding included; `lengths`: those of each row."""

    def __init__(self, cache: Cache | None, *, is_fixed: bool) -> None:
        self.owners: list[Owner] = []
        self.lengths: list[int] = []
        self.width = 0
        self.cache = cache
        self._is_fixed = is_fixed

    @classmethod
    def empty(cls) -> "DecodingBatch[Owner]":
        """A batch that rows may join."""
        return cls(None, is_fixed=False)

    @classmethod
    def of_one(cls, owner: Owner, length: int, cache: Cache | None) -> "DecodingBatch[Owner]":
        """A batch of one row that no other may join, as of a model whose layers carry state."""
        batch = cls(cache, is_fixed=True)
        batch.owners, batch.lengths, batch.width = [owner], [length], length
        return batch

    def suits(self, length: int) -> bool:
        """Whether a row of this length costs little padding here."""
        shorter, longer = sorted((length, self.width))
        return not self._is_fixed and longer <= 2 * shorter + CLOSE_TOKENS

    def next_place(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The positions (R,) of the rows' next tokens, and 0 on the padding (R, width + 1); None without padding."""
        lengths = torch.tensor(self.lengths, device=device)
        padding = self.width - lengths
        if not bool(padding.any()):
            return lengths, None
        return lengths, (torch.arange(self.width + 1, device=device) >= padding[:, None]).long()

    def grew(self, cache: Cache) -> None:
        """Take the cache that holds one more token of every row."""
        self.cache = cache
        self.width += 1
        self.lengths = [length + 1 for length in self.lengths]
        if not self._is_fixed and self._room() == 0:
            self._lay_out([])

    def join(self, owner: Owner, path: Path) -> None:
        """Add a row with the keys and values of a path."""
        self._lay_out([path])
        self.owners.append(owner)

    def drop(self, unwanted: Sequence[bool]) -> None:
        """Drop the rows that are unwanted."""
        if not any(unwanted):
            return
        kept = [row for row, drops in enumerate(unwanted) if not drops]
        self.owners = [self.owners[row] for row in kept]
        self.lengths = [self.lengths[row] for row in kept]
        if self.owners and self.cache is not None:
            select_rows(self.cache, kept)

    def _room(self) -> int:
        assert self.cache is not None
        layer = self.cache.layers[0]
        assert isinstance(layer, PreallocatedLayer)
        return layer.room_for_keys.shape[2] - layer.length

    def _lay_out(self, added: Sequence[Path]) -> None:
        """Make the tensors again, as wide as the longest row and with room, and with a row more for each path."""
        lengths = [*self.lengths, *map(path_length, added)]
        width = max(lengths)
        layers = []
        for number in range(len(added[0][0]) if added else len(self._layers())):
            rooms = []
            for kind in (0, 1):
                rows = [*self._rows(number, kind), *(torch.cat([s[number][kind] for s in path], 1) for path in added)]
                room = rows[0].new_zeros(len(rows), rows[0].shape[0], width + ROOM_TOKENS, rows[0].shape[2])
                for row, tensor in enumerate(rows):
                    room[row, :, width - tensor.shape[1] : width] = tensor
                rooms.append(room)
            layers.append(PreallocatedLayer(rooms[0], rooms[1], width))
        self.cache, self.lengths, self.width = Cache(layers=layers), lengths, width  # type: ignore[arg-type]

    def _layers(self) -> list[PreallocatedLayer]:
        layers = [] if self.cache is None else self.cache.layers
        return [layer for layer in layers if isinstance(layer, PreallocatedLayer)]

    def _rows(self, number: int, kind: int) -> list[Tensor]:
        """The keys or values (H, n, D) of every row, in one layer, without padding."""
        if self.cache is None:
            return []
        layer = self._layers()[number]
        held = (layer.keys, layer.values)[kind]
        return [held[row, :, self.width - length :] for row, length in enumerate(self.lengths)]
