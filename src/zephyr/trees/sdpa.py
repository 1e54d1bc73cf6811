"""The rule through PyTorch's SDPA, block of queries by block: for CPU, MPS, NPU, XPU and whatever else has SDPA.

A block is a stretch of the row. Its keys are the ancestors of its first token and the stretch itself, for what
comes between in the row belongs to other branches. A chain without ancestors is plain causal attention; other
blocks are masked by the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zephyr.trees.forest import Chain, Forest

# Queries of a masked block: bounds its mask to QUERY_BLOCK x depth, however long the chain.
QUERY_BLOCK = 1024
# Chains shorter than this are masked together, up to as many queries: one call beats many small ones.
MERGED_QUERIES = 128

# Stretches start..end of the row, in order.
_Ranges = tuple[tuple[int, int], ...]


class _Block(NamedTuple):
    """The next ``num_queries`` of the row against the keys of some ranges; ``mask`` (queries, keys), None if causal."""

    num_queries: int
    keys: _Ranges
    mask: Tensor | None

    @property
    def num_keys(self) -> int:
        return sum(end - start for start, end in self.keys)


class _Plan(NamedTuple):
    """The calls of one layer; ``key_index`` gathers the keys of all blocks, None if they stand in order already."""

    blocks: tuple[_Block, ...]
    key_index: Tensor | None


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention (1, Hq, T, D) over a forest. ``query`` (1, Hq, T, D); ``key``, ``value`` (1, Hkv, T, D)."""
    plan = _plan(forest, window, query.device)
    if plan.key_index is not None:
        key, value = key.index_select(2, plan.key_index), value.index_select(2, plan.key_index)
    # One split each, not a slice a block: the backward of a slice fills a whole row with zeros, every time.
    queries = torch.split(query, [block.num_queries for block in plan.blocks], dim=2)
    num_keys = [block.num_keys for block in plan.blocks]
    keys, values = torch.split(key, num_keys, dim=2), torch.split(value, num_keys, dim=2)
    attended = [
        _attend(q, k, v, block.mask, scaling=scaling, softcap=softcap)
        for q, k, v, block in zip(queries, keys, values, plan.blocks, strict=True)
    ]
    return torch.cat(attended, dim=2)


def sink_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    sinks: Tensor,
    window: int | None = None,
) -> Tensor:
    """The same where each head's softmax has one more term, ``sinks`` (Hq,), to which no value belongs (GPT-OSS).

    The term is the score of one more key in every block: queries hold it as one more feature, in which that key alone
    is not 0. So its gradient is that of any score.
    """
    plan = _plan(forest, window, query.device)
    if plan.key_index is not None:
        key, value = key.index_select(2, plan.key_index), value.index_select(2, plan.key_index)
    term = (sinks / scaling).to(query.dtype)[None, :, None, None].expand(*query.shape[:-1], 1)
    sink_key = functional.pad(torch.zeros_like(key[:, :, :1]), (0, 1), value=1.0)
    queries = torch.split(torch.cat([query, term], -1), [block.num_queries for block in plan.blocks], dim=2)
    num_keys = [block.num_keys for block in plan.blocks]
    keys, values = torch.split(functional.pad(key, (0, 1)), num_keys, dim=2), torch.split(value, num_keys, dim=2)
    attended = []
    for q, k, v, block in zip(queries, keys, values, plan.blocks, strict=True):
        shape = block.num_queries, block.num_keys
        mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril() if block.mask is None else block.mask
        mask, v_and_0 = functional.pad(mask, (0, 1), value=True), functional.pad(v, (0, 0, 0, 1))
        attended.append(_attend(q, torch.cat([k, sink_key], 2), v_and_0, mask, scaling=scaling, softcap=None))
    return torch.cat(attended, dim=2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, softcap: float | None
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value


def _plan(forest: Forest, window: int | None, device: torch.device) -> _Plan:
    """The calls of one layer, derived once per forest, window and device."""
    wanted = ("sdpa", window, device)
    plan = forest.plans.get(wanted)
    if plan is None:
        with torch.inference_mode(mode=False):  # or training could not use what the reference's pass derived
            blocks = tuple(_blocks(forest, window, device))
            index = _index([one for block in blocks for one in block.keys], device)
        in_order = len(index) == forest.num_tokens  # every token is a key of its own block
        plan = forest.plans[wanted] = _Plan(blocks, None if in_order else index)
    assert isinstance(plan, _Plan)
    return plan


def _index(ranges: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(start, end, device=device) for start, end in ranges])


def _blocks(forest: Forest, window: int | None, device: torch.device) -> Iterator[_Block]:
    """Blocks that cover the row: long chains alone and cut, neighbouring short ones together."""
    first: Chain | None = None  # of the short chains that wait, up to ``end``
    end = 0
    for chain in forest.chains:
        is_long = chain.end - chain.start > MERGED_QUERIES
        if first is not None and (is_long or chain.end - first.start > MERGED_QUERIES):
            yield _masked(forest, first, (first.start, end), window, device)
            first = None
        if not is_long:
            first, end = first or chain, chain.end
        elif not chain.path and (window is None or chain.depth <= window):
            yield _Block(chain.end - chain.start, ((chain.start, chain.end),), None)
        else:
            for start in range(chain.start, chain.end, QUERY_BLOCK):
                yield _masked(forest, chain, (start, min(start + QUERY_BLOCK, chain.end)), window, device)
    if first is not None:
        yield _masked(forest, first, (first.start, end), window, device)


def _masked(forest: Forest, chain: Chain, queries: tuple[int, int], window: int | None, device: torch.device) -> _Block:
    """The block of ``queries``, of which the first is a token of ``chain``."""
    start, end = queries
    ancestors = (*chain.path, (chain.start, start))
    # Later chains of the block may fork off higher up than the first one.
    highest = int(forest.position[start:end].min())
    hidden = 0 if window is None else max(0, highest - window + 1)
    keys = (*_without_first(ancestors, hidden), queries)
    query_index, key_index = torch.arange(start, end, device=device)[:, None], _index(keys, device)[None, :]
    reach, position = forest.reach.to(device), forest.position.to(device)
    mask = (key_index <= query_index) & (query_index < reach[key_index])
    if window is not None:
        mask &= position[query_index] - position[key_index] < window
    return _Block(end - start, keys, mask)


def _without_first(ranges: _Ranges, count: int) -> _Ranges:
    """Concatenated ``ranges`` without their first ``count`` tokens, and without empty ranges."""
    kept = []
    for start, end in ranges:
        dropped = min(count, end - start)
        count -= dropped
        if start + dropped < end:
            kept.append((start + dropped, end))
    return tuple(kept)
