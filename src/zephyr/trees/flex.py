"""The rule through FlexAttention, its block mask built straight from ``reach`` without a T x T tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from zephyr.trees.forest import Forest

BLOCK = 128


class FlexLayout(NamedTuple):
    """What FlexAttention needs of a forest, padded to P tokens in B blocks.

    ``reach``, ``position`` (P,). Then, by blocks of queries, the numbers (1, 1, B) and indices (1, 1, B, B) of the
    blocks of keys that they see in part, and of those that they see whole; and the same by blocks of keys.
    """

    reach: Tensor
    position: Tensor
    partial_keys: tuple[Tensor, Tensor]
    full_keys: tuple[Tensor, Tensor]
    partial_queries: tuple[Tensor, Tensor]
    full_queries: tuple[Tensor, Tensor]


# (query (1, Hq, P, D), key (1, Hkv, P, D), value, layout, scale, window, softcap) -> (1, Hq, P, D)
FlexKernel = Callable[[Tensor, Tensor, Tensor, FlexLayout, float, int | None, float | None], Tensor]


def flex_forest_attention(  # noqa: PLR0913 - the arguments of every backend, and the kernel
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    kernel: FlexKernel | None = None,
) -> Tensor:
    """Attention (1, Hq, T, D) over a forest. ``query`` (1, Hq, T, D); ``key``, ``value`` (1, Hkv, T, D)."""
    total = query.shape[2]
    padding = -total % BLOCK
    if padding:  # a whole number of blocks keeps the compiled kernel's shapes few
        query, key, value = (functional.pad(x, (0, 0, 0, padding)) for x in (query, key, value))
    if kernel is None:
        # Uncompiled FlexAttention materialises T x T scores; on CUDA only the compiled kernel is of use.
        kernel = compiled() if query.device.type == "cuda" else flex_kernel
    layout = flex_layout(forest, window, query.device)
    return kernel(query, key, value, layout, scaling, window, softcap)[:, :, :total]


def flex_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: FlexLayout,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention (1, Hq, P, D) by FlexAttention. ``query`` (1, Hq, P, D); ``key``, ``value`` (1, Hkv, P, D).

    The layout comes in as tensors and the mask is made here, so that compiled once this serves every forest.
    """

    def cap(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap) if softcap is not None else score

    attended = flex_attention(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=block_mask(layout, window),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended


@cache
def compiled(backend: str | Callable[..., object] = "inductor") -> FlexKernel:  # type: ignore[explicit-any]  # torch's
    """`flex_kernel` compiled for every forest; it raises where it would fall back to T x T scores."""
    return torch.compile(flex_kernel, dynamic=True, fullgraph=True, backend=backend)


def block_mask(layout: FlexLayout, window: int | None) -> BlockMask:
    """The block mask of a layout with this window."""

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (query < layout.reach[key])
        if window is not None:
            seen = seen & (layout.position[query] - layout.position[key] < window)
        return seen

    length = layout.reach.shape[0]
    return BlockMask(
        (length, length),
        *layout.partial_keys,
        *layout.full_keys,
        *layout.partial_queries,
        *layout.full_queries,
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=rule,
    )


def flex_layout(forest: Forest, window: int | None, device: torch.device) -> FlexLayout:
    """The layout of a forest, derived once per window and device; the row is padded to whole blocks."""
    wanted = ("flex", window, device)
    layout = forest.plans.get(wanted)
    if layout is None:
        with torch.inference_mode(mode=False):  # or training could not use what the reference's pass derived
            layout = forest.plans[wanted] = _derive(forest, window, device)
    assert isinstance(layout, FlexLayout)
    return layout


def _derive(forest: Forest, window: int | None, device: torch.device) -> FlexLayout:
    total = forest.num_tokens
    padding = -total % BLOCK
    # A padding token is a tree of its own: it reaches only itself, so no row of the softmax is empty.
    index = torch.arange(total + padding, device=device)
    reach = torch.cat([forest.reach.to(device), index[total:] + 1])
    position = torch.cat([forest.position.to(device), torch.zeros(padding, dtype=torch.int64, device=device)])
    touched, full = _touched_and_full(reach, position, window)
    partial = touched & ~full
    return FlexLayout(reach, position, *(_as_lists(blocks) for blocks in (partial, full, partial.T, full.T)))


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
    """FlexAttention's form of a (B, B) bool table: counts (1, 1, B) and indices (1, 1, B, B), chosen ones first."""
    order = torch.argsort(blocks.to(torch.int8), dim=1, descending=True, stable=True)
    return blocks.sum(1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]
