"""The rule through FlexAttention, its block mask built straight from ``reach`` without a T x T tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from zephyr.trees.forest import Forest

BLOCK = 128


def flex_forest_attention(
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
    total = query.shape[2]
    padding = -total % BLOCK
    if padding:  # a whole number of blocks keeps the compiled kernel's shapes few
        query, key, value = (functional.pad(x, (0, 0, 0, padding)) for x in (query, key, value))

    def cap(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap) if softcap is not None else score

    attended = _kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=block_mask(forest, window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended[:, :, :total]


def block_mask(forest: Forest, window: int | None, device: torch.device) -> BlockMask:
    """The block mask of a forest, derived once per window and device; the row is padded to whole blocks."""
    wanted = ("flex", window, device)
    mask = forest.plans.get(wanted)
    if mask is None:
        with torch.inference_mode(mode=False):  # or training could not use what the reference's pass derived
            mask = forest.plans[wanted] = _derive(forest, window, device)
    assert isinstance(mask, BlockMask)
    return mask


@cache
def _kernel(device_type: str) -> Callable[..., object]:  # type: ignore[explicit-any]  # torch's signature
    # Uncompiled FlexAttention materialises T x T scores; on CUDA only the compiled kernel is of use.
    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention  # type: ignore[return-value]


def _derive(forest: Forest, window: int | None, device: torch.device) -> BlockMask:
    total = forest.num_tokens
    padding = -total % BLOCK
    # A padding token is a tree of its own: it reaches only itself, so no row of the softmax is empty.
    index = torch.arange(total + padding, device=device)
    reach = torch.cat([forest.reach.to(device), index[total:] + 1])
    position = torch.cat([forest.position.to(device), torch.zeros(padding, dtype=torch.int64, device=device)])

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (query < reach[key])
        if window is not None:
            seen = seen & (position[query] - position[key] < window)
        return seen

    touched, full = _touched_and_full(reach, position, window)
    partial_count, partial_index = _as_lists(touched & ~full)
    full_count, full_index = _as_lists(full)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_index,
        full_count,
        full_index,
        BLOCK_SIZE=BLOCK,
        mask_mod=rule,
        seq_lengths=(total + padding, total + padding),
    )


def _touched_and_full(reach: Tensor, position: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """(query blocks, key blocks) bool: some pair inside is visible (may be said too often), every pair is visible."""
    number = torch.arange(reach.shape[0] // BLOCK, device=reach.device)
    first, last = number * BLOCK, number * BLOCK + BLOCK - 1
    reach_blocks, position_blocks = reach.view(-1, BLOCK), position.view(-1, BLOCK)
    below = number[None, :] < number[:, None]
    touched = (number[None, :] <= number[:, None]) & (reach_blocks.amax(1)[None, :] > first[:, None])
    full = below & (reach_blocks.amin(1)[None, :] > last[:, None])
    if window is not None:
        nearest = position_blocks.amin(1)[:, None] - position_blocks.amax(1)[None, :]
        farthest = position_blocks.amax(1)[:, None] - position_blocks.amin(1)[None, :]
        touched &= nearest < window
        full &= farthest < window
    return touched | full, full


def _as_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """FlexAttention's form of a (Q, K) bool table: counts (1, 1, Q) and indices (1, 1, Q, K), chosen ones first."""
    order = torch.argsort(blocks.to(torch.int8), dim=1, descending=True, stable=True)
    return blocks.sum(1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]
