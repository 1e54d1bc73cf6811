"""Attention over a forest: one door, and behind it the backend that suits device, dtype and shape."""

from __future__ import annotations

import torch
from torch import Tensor

from zephyr.trees.flex import flex_forest_attention
from zephyr.trees.forest import Forest
from zephyr.trees.sdpa import sdpa_attention
from zephyr.trees.varlen import varlen_attention

# FlashAttention's varlen kernel takes half precision and heads of at most 256.
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_HEAD_DIM = 256


def forest_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of every token of a forest to its own path: query i sees key j iff ``j <= i < reach[j]``.

    ``query`` (1, Hq, T, D), ``key`` and ``value`` (1, Hkv, T, D) with Hq a multiple of Hkv; returns (1, Hq, T, D).
    ``window``: a key is seen only at a distance of less than ``window`` positions. ``softcap``: scores become
    ``softcap * tanh(score / softcap)`` (Gemma 2).
    """
    if query.device.type != "cuda":
        return sdpa_attention(query, key, value, forest, scaling=scaling, window=window, softcap=softcap)
    fits_flash = query.dtype in _FLASH_DTYPES and query.shape[-1] == value.shape[-1] <= _FLASH_HEAD_DIM
    if fits_flash and softcap is None:
        return varlen_attention(query, key, value, forest, scaling=scaling, window=window)
    return flex_forest_attention(query, key, value, forest, scaling=scaling, window=window, softcap=softcap)
