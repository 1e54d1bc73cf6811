"""The keys and values of many prompts, with every shared prefix computed once.

The prompts form a prefix tree. Each of its nodes is computed once, as a *segment* of keys and values; a
prompt is the *path* of its segments, and `lay_out` puts the paths of a batch into one cache to decode from.
For models whose layers only attend; `generation` decides what to do with the others.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

# Below this many tokens saved, a forward of its own costs more than computing a shared stretch again.
MIN_SAVED_TOKENS = 16
# Tokens of one prefill forward, padding included: bounds its activations.
MAX_PREFILL_TOKENS = 8192

IdTuple = tuple[int, ...]
# The keys and values (H, n, D) of a stretch of n tokens, one pair a layer.
CacheSegment = list[tuple[Tensor, Tensor]]
# The segments from a prompt's first token on.
Path = tuple[CacheSegment, ...]


def _shared_length(bodies: Sequence[IdTuple]) -> int:
    # What the first and the last in lexical order share, all share.
    first, last = min(bodies), max(bodies)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def path_length(path: Path) -> int:
    """How many tokens the path holds."""
    return sum(segment[0][0].shape[1] for segment in path)


def root_path(model: PreTrainedModel, bodies: Sequence[IdTuple]) -> Path:
    """The path of what all `bodies` share, for all groups of them to start from."""
    if len(set(bodies)) < 2:
        return ()
    shared = _shared_length(bodies)
    if shared < MIN_SAVED_TOKENS:
        return ()
    return (compute_segments(model, (), [bodies[0][:shared]])[0],)


def prefill(model: PreTrainedModel, bodies: list[IdTuple], root: Path) -> dict[IdTuple, Path]:
    """The path of every body; `bodies` are distinct, in lexical order, and all begin with `root`.

    Walks their prefix tree: a stretch that several bodies share is computed once where that saves enough.
    """
    paths: dict[IdTuple, Path] = {}
    pending = [(bodies, root)]
    while pending:
        group, path = pending.pop()
        depth = path_length(path)
        shared = _shared_length(group)
        if shared > depth:
            path = (*path, compute_segments(model, path, [group[0][depth:shared]])[0])
            depth = shared
        leaves: list[IdTuple] = []
        for branch in _branches(group, depth):
            if len(branch[0]) == depth:
                paths[branch[0]] = path
            elif (len(branch) - 1) * (_shared_length(branch) - depth) >= MIN_SAVED_TOKENS:
                pending.append((branch, path))
            else:
                leaves += branch
        for batch in _cut_leaves(leaves, depth):
            segments = compute_segments(model, path, [body[depth:] for body in batch])
            paths.update({body: (*path, segment) for body, segment in zip(batch, segments, strict=True)})
    return paths


def _branches(group: Sequence[IdTuple], depth: int) -> list[list[IdTuple]]:
    """The sorted bodies, cut where the token at `depth` changes; one that ends there stands alone."""
    branches: list[list[IdTuple]] = []
    for body in group:
        if branches and branches[-1][0][depth : depth + 1] == body[depth : depth + 1]:
            branches[-1].append(body)
        else:
            branches.append([body])
    return branches


def _cut_leaves(leaves: list[IdTuple], depth: int) -> Iterator[list[IdTuple]]:
    """The leaves, like lengths together, in batches of at most `MAX_PREFILL_TOKENS` tokens with padding."""
    batch: list[IdTuple] = []
    for body in sorted(leaves, key=len):
        if batch and (len(batch) + 1) * (len(body) - depth) > MAX_PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(body)
    if batch:
        yield batch


def compute_segments(model: PreTrainedModel, path: Path, stretches: Sequence[IdTuple]) -> list[CacheSegment]:
    """The keys and values of every stretch of tokens, all of which continue `path`.

    Padding stands on the right, where no token of a stretch sees it, so that no mask is needed. The cache
    keeps all tokens even where a layer sees a window only: the window is then the mask's business, by index.
    """
    depth, num_rows = path_length(path), len(stretches)
    width = max(len(stretch) for stretch in stretches)
    cache = DynamicCache()
    for layer, parts in enumerate(zip(*path, strict=True)):
        keys, values = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        cache.update(keys.expand(num_rows, -1, -1, -1), values.expand(num_rows, -1, -1, -1), layer)
    padded = [[*stretch, *[0] * (width - len(stretch))] for stretch in stretches]
    ids = torch.tensor(padded, device=model.device)
    positions = torch.arange(depth, depth + width, device=model.device).expand(num_rows, -1)
    model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    # Clones, because a slice would keep the whole padded batch alive.
    return [
        [(keys[row, :, depth:end].clone(), values[row, :, depth:end].clone()) for keys, values, _ in cache]
        for row, end in enumerate(depth + len(stretch) for stretch in stretches)
    ]


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values (B, H, capacity, D) of a layer, written in place; concatenation would double them."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room_for_keys, self.room_for_values = keys, values
        self.length = length
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._look()

    def _look(self) -> None:
        self.keys: Tensor = self.room_for_keys[:, :, : self.length]
        self.values: Tensor = self.room_for_values[:, :, : self.length]

    # The base class passes further arguments on to layers that want them; this one wants none.
    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[2]
        self.room_for_keys[:, :, self.length : end] = key_states
        self.room_for_values[:, :, self.length : end] = value_states
        self.length = end
        self._look()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        rows = beam_idx.to(self.room_for_keys.device)
        self.room_for_keys = self.room_for_keys.index_select(0, rows)
        self.room_for_values = self.room_for_values.index_select(0, rows)
        self._look()


def lay_out(paths: Sequence[Path], max_new_tokens: int) -> Cache | None:
    """A cache of a row a path, all flush right, and room for `max_new_tokens` more; None if all are empty.

    Flush right means that index distance is token distance, which sliding windows count in.
    """
    lengths = [path_length(path) for path in paths]
    width = max(lengths)
    if width == 0:
        return None
    longest = paths[lengths.index(width)]
    layers = []
    for layer, (keys, values) in enumerate(longest[0]):
        rooms = []
        for kind, like in enumerate((keys, values)):
            room = like.new_empty(len(paths), like.shape[0], width + max_new_tokens, like.shape[2])
            for row, (path, length) in enumerate(zip(paths, lengths, strict=True)):
                room[row, :, : width - length] = 0  # masked, but what a mask multiplies must be a number
                if path:
                    room[row, :, width - length : width] = torch.cat([s[layer][kind] for s in path], dim=1)
            rooms.append(room)
        layers.append(PreallocatedLayer(rooms[0], rooms[1], width))
    return Cache(layers=layers)  # type: ignore[arg-type]


def select_rows(cache: Cache, rows: list[int]) -> None:
    """Keep the cache's rows with these indices, in this order."""
    cache.reorder_cache(torch.tensor(rows))  # type: ignore[arg-type]
    # MiniMax's linear attention, which its own reorder_cache leaves as it was (transformers 5.23).
    states = getattr(cache, "linear_cache", None)
    if states is not None:
        cache.linear_cache = [state[rows] if isinstance(state, Tensor) else state for state in states]  # type: ignore[attr-defined]
