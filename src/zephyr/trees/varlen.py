"""The rule as one variable-length attention call on CUDA: every chain's queries against its gathered path keys.

FlashAttention aligns a causal mask to the bottom right, which is what a chain behind its path needs, and a
key's index in the gathered path is its position, so a sliding window by position is the kernel's own window.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor

from zephyr.trees.forest import Forest, sent


class VarlenPlan(NamedTuple):
    """Gather index (Tk,), cumulative lengths (chains + 1,) int32 and the longest of each."""

    key_index: Tensor
    cumulative_queries: Tensor
    cumulative_keys: Tensor
    longest_queries: int
    longest_keys: int


# (query (Tq, Hq, D), key (Tk, Hkv, D), value, plan, scale, keys seen to the left or -1 for all) -> (Tq, Hq, D)
VarlenKernel = Callable[[Tensor, Tensor, Tensor, VarlenPlan, float, int], Tensor]


def varlen_attention(  # noqa: PLR0913 - the arguments of every backend, and the kernel
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    kernel: VarlenKernel | None = None,
) -> Tensor:
    """Attention (1, Hq, T, D) over a forest in one call. ``query`` (1, Hq, T, D); ``key``, ``value`` (1, Hkv, T, D).

    The kernels know no ``softcap``.
    """
    assert softcap is None, softcap
    plan = varlen_plan(forest, query.device)
    kernel = flash_kernel if kernel is None else kernel
    attended = kernel(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1).index_select(0, plan.key_index),
        value[0].transpose(0, 1).index_select(0, plan.key_index),
        plan,
        scaling,
        -1 if window is None else window - 1,
    )
    return attended.transpose(0, 1)[None]


def flash_kernel(query: Tensor, key: Tensor, value: Tensor, plan: VarlenPlan, scale: float, left: int) -> Tensor:
    """Attention (Q, Hq, D) by ``torch.nn.attention.varlen`` (FlashAttention; fp16 and bf16 on CUDA).

    ``query`` (Q, Hq, D); ``key``, ``value`` (K, Hkv, D); causal, aligned at the bottom right of each sequence.
    """
    from torch.nn.attention.varlen import varlen_attn

    # Before there was such a switch (torch 2.11), heads went to the kernel unchecked, and it shares them by itself.
    shares = query.shape[1] != key.shape[1] and _has_gqa_switch()
    attend = partial(varlen_attn, enable_gqa=True) if shares else partial(varlen_attn)
    attended = attend(
        query,
        key,
        value,
        plan.cumulative_queries,
        plan.cumulative_keys,
        plan.longest_queries,
        plan.longest_keys,
        scale=scale,
        window_size=(left, 0),
    )
    assert isinstance(attended, Tensor)
    return attended


@cache
def _has_gqa_switch() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in signature(varlen_attn).parameters


def varlen_plan(forest: Forest, device: torch.device) -> VarlenPlan:
    """The gather and lengths of a forest, derived once per device."""
    wanted = ("varlen", device)
    plan = forest.plans.get(wanted)
    if plan is None:
        with torch.inference_mode(mode=False):  # or training could not use what the reference's pass derived
            plan = forest.plans[wanted] = _derive(forest, device)
    assert isinstance(plan, VarlenPlan)
    return plan


def _derive(forest: Forest, device: torch.device) -> VarlenPlan:
    ranges = [(*chain.path, (chain.start, chain.end)) for chain in forest.chains]
    key_index = torch.cat([torch.arange(start, end) for chain in ranges for start, end in chain])
    queries = [chain.end - chain.start for chain in forest.chains]
    keys = [chain.end - chain.start + chain.path_length for chain in forest.chains]
    return VarlenPlan(
        key_index=sent(key_index, device),
        cumulative_queries=sent(_cumulative(queries), device),
        cumulative_keys=sent(_cumulative(keys), device),
        longest_queries=max(queries),
        longest_keys=max(keys),
    )


def _cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
