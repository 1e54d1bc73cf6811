"""The rule through PyTorch's SDPA, chain by chain: for CPU, MPS, NPU, XPU and whatever else has SDPA.

A chain's queries see the tokens of their path and, causally, themselves. A chain without a path is plain causal
attention; one with a path has its path's keys gathered before its own and masks from the bottom right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zephyr.trees.forest import Chain, Forest

# Queries per call where a mask is needed: bounds the mask to QUERY_BLOCK x depth, however long the chain.
QUERY_BLOCK = 1024


class _Block(NamedTuple):
    """The next ``num_queries`` of the row against the keys of some ranges; ``mask`` (queries, keys), None if causal."""

    num_queries: int
    keys: tuple[tuple[int, int], ...]
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
    queries = query.split([block.num_queries for block in plan.blocks], dim=2)
    keys, values = (x.split([block.num_keys for block in plan.blocks], dim=2) for x in (key, value))
    attended = [
        _attend(q, k, v, block.mask, scaling=scaling, softcap=softcap)
        for q, k, v, block in zip(queries, keys, values, plan.blocks, strict=True)
    ]
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
        blocks = tuple(block for chain in forest.chains for block in _blocks(chain, window, device))
        ranges = [one for block in blocks for one in block.keys]
        index = torch.cat([torch.arange(start, end, device=device) for start, end in ranges])
        in_order = len(index) == forest.num_tokens  # every range occurs at least once
        plan = forest.plans[wanted] = _Plan(blocks, None if in_order else index)
    assert isinstance(plan, _Plan)
    return plan


def _blocks(chain: Chain, window: int | None, device: torch.device) -> Iterator[_Block]:
    length, before = chain.end - chain.start, chain.path_length
    keys = (*chain.path, (chain.start, chain.end))
    within_window = window is None or before + length <= window
    if within_window and not chain.path:
        yield _Block(length, keys, None)
        return
    for first in range(0, length, QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, length)
        lowest = 0 if within_window else max(0, before + first - (window or 0) + 1)
        depth_q = torch.arange(before + first, before + last, device=device)[:, None]
        depth_k = torch.arange(lowest, before + last, device=device)[None, :]
        mask = depth_k <= depth_q
        if window is not None:
            mask &= depth_q - depth_k < window
        yield _Block(last - first, _cut(keys, lowest, before + last), mask)


def _cut(ranges: tuple[tuple[int, int], ...], lowest: int, highest: int) -> tuple[tuple[int, int], ...]:
    """The part of concatenated ``ranges`` between the depths ``lowest`` and ``highest``."""
    kept, depth = [], 0
    for start, end in ranges:
        low, high = max(lowest - depth, 0), min(highest - depth, end - start)
        if low < high:
            kept.append((start + low, start + high))
        depth += end - start
    return tuple(kept)
