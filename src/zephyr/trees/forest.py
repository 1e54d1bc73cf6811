"""Forests of shared prefixes: many token sequences laid out once, without padding, in depth-first order.

Two sequences that begin alike share the tokens of their common prefix, wherever it ends (also inside a completion).
What may attend to what, and what predicts what, is carried by three integer vectors:

- ``position[i]``: depth of token i in its own sequence;
- ``reach[i]``: the flat index where the subtree under token i ends;
- query i sees key j if and only if ``j <= i < reach[j]``.

A token is predicted from its parent, so the pairs to score are explicit edges (source index, target id).
Attention over the layout lives in ``attention.py``, scoring of the edges in ``score.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class ScoredSequence(NamedTuple):
    """A token sequence and which of its tokens are targets.

    ``ids`` (n,) int64; ``scored`` (n,) bool: token t is predicted from tokens 0..t-1 and its log-probability counts.
    The first token has no predecessor, so ``scored[0]`` must be False.
    """

    ids: Ids
    scored: Mask


def completion_scored(prompt: Sequence[int] | Ids, completion: Sequence[int] | Ids) -> ScoredSequence:
    """The sequence prompt + completion, of which the completion's tokens are scored."""
    ids = np.concatenate([np.asarray(prompt, dtype=np.int64), np.asarray(completion, dtype=np.int64)])
    scored = np.arange(len(ids)) >= max(len(prompt), 1)
    return ScoredSequence(ids, scored)


def all_scored(ids: Sequence[int] | Ids) -> ScoredSequence:
    """The sequence with every token scored but the first, which nothing precedes."""
    return completion_scored([], ids)


def last_scored(prompt: Sequence[int] | Ids, completion: Sequence[int] | Ids) -> ScoredSequence:
    """The sequence prompt + completion with its last token alone scored: what a reward is read at."""
    ids = completion_scored(prompt, completion).ids
    return ScoredSequence(ids, np.arange(len(ids)) == max(len(ids) - 1, 1))


# Where an example has fewer sequences than others: no tokens, nothing scored, a sum of 0.
ABSENT = ScoredSequence(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))


class Segment(NamedTuple):
    """A run of consecutive tokens without a fork inside: ``start <= i < end``; ``parent`` is -1 for a root."""

    start: int
    end: int
    parent: int


class Chain(NamedTuple):
    """A leaf-ward walk through first children: queries ``start <= i < end``, plain causal among themselves.

    ``path`` holds the ranges of the ancestors' tokens, in order; every query of the chain sees all of them.
    """

    start: int
    end: int
    path: tuple[tuple[int, int], ...]

    @property
    def path_length(self) -> int:
        """How many tokens come before the chain's own in their sequence."""
        return sum(end - start for start, end in self.path)

    @property
    def depth(self) -> int:
        """Length of the sequence that ends with the chain's last token."""
        return self.path_length + self.end - self.start


@dataclass(frozen=True)
class Forest:
    """A flat layout of T unique tokens, E unique edges and N sequences; see the module's text.

    ``ids``, ``position``, ``reach``: (T,) int64. ``edge_source`` (E,) flat index that predicts, ``edge_target`` (E,)
    token id predicted. ``member_edge``, ``member_sequence`` (M,): edge e belongs to sequence s, ordered by sequence.
    ``last`` (N,) flat index of each sequence's last token, -1 for an empty one. ``chains`` cover 0..T without gap or
    overlap.
    """

    ids: Tensor
    position: Tensor
    reach: Tensor
    edge_source: Tensor
    edge_target: Tensor
    member_edge: Tensor
    member_sequence: Tensor
    last: Tensor
    num_sequences: int
    chains: tuple[Chain, ...]
    # What an attention backend derives from the layout once and uses in every layer (gather indices, block masks).
    plans: dict[object, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_tokens(self) -> int:
        """Number of unique tokens, T."""
        return int(self.ids.shape[0])

    @cached_property
    def num_path_tokens(self) -> int:
        """Number of tokens of all chains together, each with its path."""
        return sum(chain.depth for chain in self.chains)

    @property
    def num_edges(self) -> int:
        """Number of unique scored tokens, E."""
        return int(self.edge_source.shape[0])

    def to(self, device: torch.device | str) -> Forest:
        """The same forest with its tensors on ``device``."""
        names = [one.name for one in fields(self) if isinstance(getattr(self, one.name), Tensor)]
        moved = {name: sent(getattr(self, name), torch.device(device)) for name in names}
        return replace(self, **moved, plans={})  # type: ignore[arg-type]  # by name, all are tensors


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of any shape on the device; no CUDA device has to be done with its earlier work before it is sent."""
    # From memory that the system may swap out, the host waits for the copy, and for all that was asked for before.
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


class _Node:
    """A node of the radix trie while it is built: a run of tokens, its children by their first token."""

    __slots__ = ("children", "ids")

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.children: dict[int, _Node] = {}


def build_forest(sequences: Sequence[ScoredSequence]) -> Forest:
    """The forest of ``sequences`` on the CPU, in time linear in their tokens.

    Empty sequences and sequences without a scored token are allowed: their sums are 0. Identical scored tokens of
    different sequences (a token scored twice behind the same prefix) become one edge with two owners.
    Raises ValueError if the first token of a sequence is scored or the two arrays differ in length.
    """
    _check(sequences)
    root = _Node(np.empty(0, dtype=np.int64))
    for sequence in sequences:
        _insert(root, sequence.ids)
    nodes, segments = _flatten(root)
    starts = {id(node): segment.start for node, segment in zip(nodes, segments, strict=True)}
    ids, position, reach, parent = _token_vectors(nodes, segments)
    places = [_places(root, starts, sequence.ids) for sequence in sequences]
    targets = [place[sequence.scored] for place, sequence in zip(places, sequences, strict=True)]
    # A token has one parent, hence the flat index of the target names the edge.
    is_edge = np.zeros(len(ids), dtype=np.bool_)
    for target in targets:
        is_edge[target] = True
    edge_token = np.flatnonzero(is_edge)
    edge_number = np.cumsum(is_edge) - 1
    members = np.concatenate([edge_number[t] for t in targets] or [np.empty(0, np.int64)])
    owners = np.repeat(np.arange(len(sequences)), [len(t) for t in targets])
    return Forest(
        ids=torch.from_numpy(ids),
        position=torch.from_numpy(position),
        reach=torch.from_numpy(reach),
        edge_source=torch.from_numpy(parent[edge_token]),
        edge_target=torch.from_numpy(ids[edge_token]),
        member_edge=torch.from_numpy(members.astype(np.int64)),
        member_sequence=torch.from_numpy(owners.astype(np.int64)),
        last=torch.tensor([place[-1] if len(place) else -1 for place in places], dtype=torch.int64),
        num_sequences=len(sequences),
        chains=tuple(_chains(segments)),
    )


def num_unique_tokens(sequences: Sequence[ScoredSequence]) -> int:
    """The tokens of the forest of ``sequences``, without its layout."""
    root = _Node(np.empty(0, dtype=np.int64))
    for sequence in sequences:
        _insert(root, sequence.ids)
    total, waiting = 0, [root]
    while waiting:
        node = waiting.pop()
        total += len(node.ids)
        waiting += node.children.values()
    return total


def _check(sequences: Sequence[ScoredSequence]) -> None:
    for number, (ids, scored) in enumerate(sequences):
        if ids.shape != scored.shape or ids.ndim != 1:
            raise ValueError(f"sequence {number}: ids {ids.shape} and scored {scored.shape} must be equal (n,)")
        if scored.dtype != np.bool_:
            raise ValueError(f"sequence {number}: scored must be bool, got {scored.dtype}")
        if len(ids) and scored[0]:
            raise ValueError(f"sequence {number}: its first token is scored, but nothing precedes it")


def _insert(root: _Node, ids: Ids) -> None:
    """Add one sequence to the trie, splitting a node where the sequence leaves it."""
    node, at = root, 0
    while at < len(ids):
        first = int(ids[at])
        child = node.children.get(first)
        if child is None:
            node.children[first] = _Node(ids[at:])
            return
        length = min(len(child.ids), len(ids) - at)
        differing = np.flatnonzero(child.ids[:length] != ids[at : at + length])
        same = int(differing[0]) if len(differing) else length
        if len(differing):
            lower = _Node(child.ids[same:])
            lower.children = child.children
            child.ids, child.children = child.ids[:same], {int(lower.ids[0]): lower}
        node, at = child, at + same


def _flatten(root: _Node) -> tuple[list[_Node], list[Segment]]:
    """The trie's nodes in depth-first order with their places in the flat row."""
    nodes: list[_Node] = []
    segments: list[Segment] = []
    stack = [(child, -1) for child in reversed(root.children.values())]
    end = 0
    while stack:
        node, parent = stack.pop()
        segments.append(Segment(end, end + len(node.ids), parent))
        end += len(node.ids)
        stack.extend((child, len(nodes)) for child in reversed(node.children.values()))
        nodes.append(node)
    return nodes, segments


def _token_vectors(nodes: list[_Node], segments: list[Segment]) -> tuple[Ids, Ids, Ids, Ids]:
    """Token ids, position, reach and the flat index of each token's predecessor (-1 at a root)."""
    total = segments[-1].end if segments else 0
    ids, position, reach = (np.empty(total, dtype=np.int64) for _ in range(3))
    parent = np.arange(-1, total - 1, dtype=np.int64)
    subtree_end = [segment.end for segment in segments]
    for number in range(len(segments) - 1, -1, -1):  # children come after their parent
        above = segments[number].parent
        if above >= 0:
            subtree_end[above] = max(subtree_end[above], subtree_end[number])
    for node, segment, end in zip(nodes, segments, subtree_end, strict=True):
        here = slice(segment.start, segment.end)
        before = segments[segment.parent].end - 1 if segment.parent >= 0 else -1
        depth = position[before] + 1 if before >= 0 else 0
        ids[here] = node.ids
        position[here] = np.arange(depth, depth + len(node.ids))
        reach[here] = end
        parent[segment.start] = before
    return ids, position, reach, parent


def _places(root: _Node, starts: dict[int, int], ids: Ids) -> Ids:
    """The flat index of every token of a sequence that is in the trie."""
    node, at = root, 0
    ranges = []
    while at < len(ids):
        node = node.children[int(ids[at])]
        length = min(len(node.ids), len(ids) - at)
        ranges.append(np.arange(starts[id(node)], starts[id(node)] + length))
        at += length
    return np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int64)


def _chains(segments: list[Segment]) -> Iterator[Chain]:
    """Cut the depth-first row where a segment does not continue the one before it."""
    start = 0
    for number, segment in enumerate(segments):
        is_last = number + 1 == len(segments)
        if is_last or segments[number + 1].parent != number:
            yield Chain(segments[start].start, segment.end, _ancestors(segments, segments[start].parent))
            start = number + 1


def _ancestors(segments: list[Segment], number: int) -> tuple[tuple[int, int], ...]:
    """The ranges of tokens on the path from the root down to segment ``number``, neighbours merged."""
    ranges: list[tuple[int, int]] = []
    while number >= 0:
        segment = segments[number]
        if ranges and ranges[-1][0] == segment.end:
            ranges[-1] = (segment.start, ranges[-1][1])
        else:
            ranges.append((segment.start, segment.end))
        number = segment.parent
    return tuple(reversed(ranges))
