"""Registers attention of one step's new tokens to all that is held, with transformers, so that its decoders run as is.

The tokens of a step stand behind one another in one sequence: the newest of every row, then stretches of prompts.
Each attends to its own row or stretch, and to the shared segments before it; a segment is read once for all who share
it. The parts are merged by their log-sum-exp, as in FlashAttention (arXiv 2205.14135) and cascade inference
(flashinfer.ai/2024/02/02/cascade-inference.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from zephyr.models.attention import CannotShareError, foreign_terms, no_mask
from zephyr.models.key_values import CacheRow, CacheSegment, RowPool
from zephyr.trees.forest import sent

CACHED = "zephyr_cached"

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - SDPA keeps the log-sum-exp to itself


class AttentionPart(NamedTuple):
    """Values (..., D) that some keys give to queries, and the log-sum-exp (...) of the scores."""

    values: Tensor
    lse: Tensor


class Stretch(NamedTuple):
    """The next tokens of a segment; `row`: whose prompt they complete, None if nobody's."""

    segment: CacheSegment
    num_tokens: int
    row: CacheRow | None = None


class _Shared(NamedTuple):
    """Segments that no two of which a token sees, with the tokens of the step that see each."""

    tokens: Tensor  # (n,), those of the first segment first
    is_all: bool  # all tokens of the step, in their order
    segments: tuple[tuple[CacheSegment, int, Tensor | None], ...]  # how many of the tokens, and a mask (k, keys)


class _View(NamedTuple):
    """What the tokens of a step see through one window."""

    pools: tuple[Tensor, ...]  # masks (R, 1, N, W), N the most new tokens of a row
    stretches: tuple[Tensor | None, ...]  # masks (k, keys); None: causal
    shared: tuple[_Shared, ...]


class _Pooled(NamedTuple):
    """The new tokens of a pool's R rows: where their keys and values go, and what each of them sees.

    `places`: rows (T,) and places in them (T,). `lengths` (R, N): the last place that a token sees, where rows with
    fewer than N are padded. `taken` (R * N,), `kept` (T,): tokens as padded rows, and back; None: a token each.
    """

    places: tuple[Tensor, Tensor]
    lengths: Tensor
    taken: Tensor | None = None
    kept: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return len(self.places[0])


@dataclass
class Step:
    """The new tokens of one forward: those of every row in `pools`, in their order, and then the `stretches`.

    A row has its newest token, and behind it what `guesses` say.
    """

    pools: list[RowPool]
    stretches: list[Stretch]
    device: torch.device
    guesses: Mapping[CacheRow, Sequence[int]] = field(default_factory=dict)
    _dtype: torch.dtype = torch.float32  # of the layers' keys and values, which need not be the weights'
    _layer: int = -1
    _views: dict[int | None, _View] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = [row for pool in self.pools for row in pool.rows]
        self.pooled = [self._pooled(pool) for pool in self.pools]
        ids: list[int] = []
        positions: list[int] = []
        for row in self.rows:
            ids += [row.sample.newest, *self.guesses.get(row, ())]
            positions += range(row.start + row.length, row.start + row.length + self.num_new(row))
        for segment, count, _ in self.stretches:
            done = segment.num_computed
            ids += segment.ids[done : done + count].tolist()
            positions += range(segment.start + done, segment.start + done + count)
        self.ids = self._sent(ids)[None]
        self.positions = positions

    def num_new(self, row: CacheRow) -> int:
        """How many new tokens a row has."""
        return 1 + len(self.guesses.get(row, ()))

    def _pooled(self, pool: RowPool) -> _Pooled:
        held = np.array([row.length for row in pool.rows])
        counts = np.array([self.num_new(row) for row in pool.rows])
        most = int(counts.max())
        if most == 1:
            starts = self._sent(held)
            return _Pooled((torch.arange(len(counts), device=self.device), starts), starts[:, None])
        # Of each token its row, and how many new ones of the row are before it; of padding those of the row's last one.
        rows, firsts = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
        behind = np.arange(len(rows)) - firsts[rows]
        padded = np.minimum(np.arange(most), counts[:, None] - 1)
        places = self._sent(rows), self._sent(held[rows] + behind)
        taken, kept = self._sent((firsts[:, None] + padded).ravel()), self._sent(rows * most + behind)
        return _Pooled(places, self._sent(held[:, None] + padded), taken, kept)

    def _sent(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Whole numbers on the device, for which the host does not wait."""
        return sent(torch.as_tensor(numbers, dtype=torch.int64), self.device)

    def forward_through(self, model: nn.Module, kept: list[int], *, keeps: bool) -> Tensor:
        """The logits (n, V) after the `kept` tokens; `keeps`: the model can leave out the others itself."""
        self._layer = -1
        # One at least, for a head without rows is nothing that every model knows.
        wanted = self._sent(kept or [-1])
        keywords: dict[str, Tensor] = {"logits_to_keep": wanted} if keeps else {}
        positions = self._sent(self.positions)[None]
        output = model(input_ids=self.ids, position_ids=positions, use_cache=False, step=self, **keywords)
        logits: Tensor = output.logits[0] if keeps else output.logits[0, wanted]
        return logits[: len(kept)]

    def advance(self) -> None:
        """Count the new tokens as held."""
        for row in self.rows:
            row.length += 1
        for segment, count, _ in self.stretches:
            segment.num_computed += count

    def hold(self, keys: Tensor, values: Tensor) -> int:
        """Take keys and values (H, T, D) of the next layer; its number."""
        self._layer += 1
        self._dtype = values.dtype
        first, by_token = 0, (keys.transpose(0, 1), values.transpose(0, 1))
        for pool, pooled in zip(self.pools, self.pooled, strict=True):
            new = slice(first, first + pooled.num_tokens)
            pool.write(self._layer, pooled.places, by_token[0][new], by_token[1][new])
            first = new.stop
        for segment, count, _ in self.stretches:
            new = slice(first, first + count)
            segment.write(self._layer, segment.num_computed, keys[:, new], values[:, new])
            first = new.stop
        return self._layer

    def view(self, window: int | None) -> _View:
        """What is seen through a window, derived once a step."""
        if window not in self._views:
            pools = tuple(
                self._pool_mask(pooled.lengths, max(row.length + self.num_new(row) for row in pool.rows), window)
                for pool, pooled in zip(self.pools, self.pooled, strict=True)
            )
            stretches = tuple(self._stretch_mask(one, window) for one in self.stretches)
            self._views[window] = _View(pools, stretches, tuple(self._shared(window)))
        return self._views[window]

    def _bias(self, is_seen: Tensor) -> Tensor:
        return torch.zeros(is_seen.shape, dtype=self._dtype, device=self.device).masked_fill_(~is_seen, -torch.inf)

    def _pool_mask(self, lengths: Tensor, width: int, window: int | None) -> Tensor:
        """Of new tokens at the places `lengths` (R, N) in their rows."""
        keys = torch.arange(width, device=self.device)
        is_seen = keys <= lengths[..., None]
        if window is not None:
            is_seen &= lengths[..., None] - keys < window
        return self._bias(is_seen[:, None])

    def _stretch_mask(self, stretch: Stretch, window: int | None) -> Tensor | None:
        done, end = stretch.segment.num_computed, stretch.segment.num_computed + stretch.num_tokens
        if not done and (window is None or end <= window):
            return None
        distance = torch.arange(done, end, device=self.device)[:, None] - torch.arange(end, device=self.device)
        return self._bias((distance >= 0) & (distance < (window or end)))

    def _shared(self, window: int | None) -> list[_Shared]:
        """The shared segments by their depth in the tree, with the tokens that see something of them."""
        levels: list[dict[CacheSegment, list[int]]] = []
        seers, first = [], 0
        counts = [(row.path, self.num_new(row)) for row in self.rows]
        for path, count in (*counts, *((segment.path, count) for segment, count, _ in self.stretches)):
            seers.append((path, list(range(first, first + count))))
            first += count
        for path, tokens in seers:
            for depth, segment in enumerate(path):
                end = segment.start + len(segment.ids)
                seen = tokens if window is None else [one for one in tokens if self.positions[one] - end + 1 < window]
                if len(levels) == depth:
                    levels.append({})
                if seen:
                    levels[depth].setdefault(segment, []).extend(seen)
        return [self._level(level, window) for level in levels if level]

    def _level(self, level: dict[CacheSegment, list[int]], window: int | None) -> _Shared:
        tokens = [one for some in level.values() for one in some]
        parts = []
        for segment, seers in level.items():
            mask = None
            if window is not None and max(self.positions[one] for one in seers) - segment.start >= window:
                positions = self._sent([self.positions[one] for one in seers])
                keys = torch.arange(segment.start, segment.start + len(segment.ids), device=self.device)
                mask = self._bias(positions[:, None] - keys < window)
            parts.append((segment, len(seers), mask))
        is_all = tokens == list(range(len(self.positions)))
        return _Shared(self._sent(tokens), is_all, tuple(parts))


@dataclass(frozen=True)
class ScoreRule:
    """How queries and keys become scores."""

    scaling: float
    softcap: float | None

    def part(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool = False
    ) -> AttentionPart:
        """What keys (B, H, k, D) give to queries (B, H, n, D), with a mask to add, or square and causal."""
        if query.device.type == "cpu" and self.softcap is None and key.shape[-1] == value.shape[-1]:
            return AttentionPart(*_flash(query, key, value, 0.0, is_causal, attn_mask=mask, scale=self.scaling))
        scores = (query @ key.transpose(2, 3)).float() if query.dtype.itemsize < 4 else query @ key.transpose(2, 3)
        scores = scores * self.scaling
        if self.softcap is not None:
            scores = self.softcap * (scores / self.softcap).tanh()
        if mask is not None:
            scores = scores + mask
        if is_causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        lse = scores.logsumexp(-1)
        return AttentionPart((scores - lse[..., None]).exp().to(value.dtype) @ value, lse)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Step,
    scores: ScoreRule,
    *,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """The attention (T, Hq, D) of a step's tokens; `query` (Hq, T, D), `key`, `value` (H, T, D) are the new ones."""
    layer, view = step.hold(key, value), step.view(window)
    grouped = query.view(key.shape[0], -1, *query.shape[1:])  # (H, G, T, D)
    by_token = grouped.permute(2, 0, 1, 3)  # (T, H, G, D)
    parts, first = [], 0
    for pool, pooled, mask in zip(step.pools, step.pooled, view.pools, strict=True):
        num_rows, width = mask.shape[0], mask.shape[-1]
        held = [tensors[layer][:num_rows, :, :width] for tensors in (pool.keys, pool.values)]
        new = by_token[first : first + pooled.num_tokens]
        parts.append(_pool_part(new, held[0], held[1], pooled, mask, scores))
        first += pooled.num_tokens
    for (segment, count, _), bias in zip(step.stretches, view.stretches, strict=True):
        end, groups = segment.num_computed + count, (-1, grouped.shape[1], -1, -1)
        # Expanded, not copied, to every query head of a group.
        held = [tensors[layer][:, None, :end].expand(groups) for tensors in (segment.keys, segment.values)]
        part = scores.part(grouped[:, :, first : first + count], held[0], held[1], bias, is_causal=bias is None)
        parts.append(AttentionPart(part.values.permute(2, 0, 1, 3), part.lse.permute(2, 0, 1)))
        first += count
    values = _joined([part.values for part in parts])
    if not view.shared and sinks is None:
        return values.flatten(1, 2)
    lse = _joined([part.lse for part in parts])
    merged = AttentionPart(values.to(lse.dtype), lse)
    for shared in view.shared:
        merged = _merge(merged, _shared_part(by_token, layer, shared, scores), shared)
    if sinks is not None:
        share = torch.sigmoid(merged.lse - sinks.view(merged.lse.shape[1:]).to(merged.lse.dtype))
        merged = AttentionPart(merged.values * share[..., None], merged.lse)
    return merged.values.flatten(1, 2).to(value.dtype)


def _pool_part(
    query: Tensor, keys: Tensor, values: Tensor, pooled: _Pooled, mask: Tensor, scores: ScoreRule
) -> AttentionPart:
    """What the rows' own keys (R, H, W, D) give to their new tokens (T, H, G, D)."""
    if pooled.taken is None:
        return scores.part(query, keys, values, mask)
    num_groups, size = query.shape[2:]
    by_row = query[pooled.taken].view(len(keys), -1, *query.shape[1:])  # (R, N, H, G, D)
    part = scores.part(by_row.transpose(1, 2).flatten(2, 3), keys, values, mask.repeat_interleave(num_groups, 2))
    found = part.values.view(len(keys), keys.shape[1], -1, num_groups, size).transpose(1, 2)
    lse = part.lse.view(len(keys), keys.shape[1], -1, num_groups).transpose(1, 2)
    return AttentionPart(found.flatten(0, 1)[pooled.kept], lse.flatten(0, 1)[pooled.kept])


def _joined(tensors: list[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def _shared_part(by_token: Tensor, layer: int, shared: _Shared, scores: ScoreRule) -> AttentionPart:
    """What the segments of one depth give to the tokens that see them."""
    queries = by_token if shared.is_all else by_token[shared.tokens]
    queries = queries.transpose(0, 1)  # (H, n, G, D)
    num_groups, first, parts = queries.shape[2], 0, []
    for segment, count, mask in shared.segments:
        query = queries[None, :, first : first + count].flatten(2, 3)
        bias = None if mask is None else mask.repeat_interleave(num_groups, 0)
        parts.append(scores.part(query, segment.keys[layer][None], segment.values[layer][None], bias))
        first += count
    values, lse = _joined([part.values[0] for part in parts], 1), _joined([part.lse[0] for part in parts], 1)
    values = values.view(*values.shape[:1], -1, num_groups, values.shape[2]).transpose(0, 1)
    return AttentionPart(values, lse.view(len(lse), -1, num_groups).transpose(0, 1))


def _merge(merged: AttentionPart, other: AttentionPart, shared: _Shared) -> AttentionPart:
    """The first part with another one added to the tokens that see it."""
    if shared.is_all:
        return _merged(merged, other)
    found = _merged(AttentionPart(merged.values[shared.tokens], merged.lse[shared.tokens]), other)
    merged.values[shared.tokens], merged.lse[shared.tokens] = found
    return merged


def _merged(one: AttentionPart, other: AttentionPart) -> AttentionPart:
    share = torch.sigmoid(other.lse - one.lse)[..., None]
    values = torch.lerp(one.values, other.values.to(one.lse.dtype), share)
    return AttentionPart(values, torch.logaddexp(one.lse, other.lse))


def _attend(  # noqa: PLR0913 - the interface of transformers
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    step: Step | None = None,
    **others: object,  # every model adds keywords of its own
) -> tuple[Tensor, None]:
    foreign = foreign_terms(others, dropout)
    if foreign or step is None:
        problem = f"uses {', '.join(foreign)}" if foreign else "is not handed what its forward is given"
        raise CannotShareError(type(module).__name__, f"its attention {problem}", "generate by transformers' own cache")
    if attention_mask is not None and sliding_window is None:
        sliding_window = int(attention_mask.flatten()[0])  # a window that only its mask knows: see `no_mask`
    scores = ScoreRule(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap)
    query, key = query.to(value.dtype), key.to(value.dtype)
    attended = attend(query[0], key[0], value[0], step, scores, window=sliding_window, sinks=s_aux)
    return attended[None], None


AttentionInterface.register(CACHED, _attend)
AttentionMaskInterface.register(CACHED, no_mask)
