"""Attention over a forest: one door, and behind it the backend that suits device, dtype and shape."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from zephyr.trees.flex import flex_forest_attention
from zephyr.trees.forest import Forest
from zephyr.trees.sdpa import sdpa_attention
from zephyr.trees.varlen import varlen_attention, varlen_plan

# FlashAttention's varlen kernel takes half precision and heads of at most 256.
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_HEAD_DIM = 256
# Neither it nor compiled FlexAttention runs on GPUs before Ampere.
_AMPERE = (8, 0)
# Varlen copies the keys of every path, of every layer. Many answers behind a long prompt are better off with
# FlexAttention, which copies none, unless the row is too short for it.
_MOST_COPIES = 3
_FLEX_TOKENS = 1024


class ForestAttention(Protocol):
    """Attention (1, Hq, T, D) over a forest; arguments as of `forest_attention`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        forest: Forest,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor: ...


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

    ``query`` (1, Hq, T, D), ``key`` and ``value`` (1, Hkv, T, D) with Hq a multiple of Hkv; returns (1, Hq, T, D) in
    the dtype of ``value``: under autocast rotary embeddings leave queries and keys in float32, which no half-precision
    kernel takes. ``window``: a key is seen only at a distance of less than ``window`` positions. ``softcap``: scores
    become ``softcap * tanh(score / softcap)`` (Gemma 2).
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    attend = pick_attention(query, value, forest, softcap, capability=_capability(value.device))
    return attend(query, key, value, forest, scaling=scaling, window=window, softcap=softcap)


def pick_attention(
    query: Tensor, value: Tensor, forest: Forest, softcap: float | None, *, capability: tuple[int, int] | None
) -> ForestAttention:
    """The backend for ``query`` (1, Hq, T, D) and ``value`` (1, Hkv, T, D) of one dtype over a forest.

    ``capability``: of their CUDA device, None for devices of another kind.
    """
    if capability is None or capability < _AMPERE:
        return sdpa_attention
    fits_flash = value.dtype in _FLASH_DTYPES and query.shape[-1] == value.shape[-1] <= _FLASH_HEAD_DIM
    suits_varlen = fits_flash and softcap is None and not _copies_much(forest)
    return varlen_attention if suits_varlen else flex_forest_attention


def prepare_attention(forest: Forest, device: torch.device) -> None:
    """Derive what the usual kernel needs of a forest that is on its device, before a layer asks for it."""
    capability = _capability(device)
    if capability is not None and capability >= _AMPERE and forest.num_tokens and not _copies_much(forest):
        varlen_plan(forest, device)


def _copies_much(forest: Forest) -> bool:
    tokens = forest.num_tokens
    return tokens >= _FLEX_TOKENS and forest.num_path_tokens > _MOST_COPIES * tokens


@cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a CUDA device; None for another kind."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
