"""Shared prefixes of layers that carry a state: it is carried over every fork, with its gradient.

Each run of tokens between two forks is one pass of the decoder, which goes on from a copy of the state behind its
prefix. Whether a model's own cache can be gone on from so is tried on the model, not read from its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from zephyr.models.attention import chain_hidden_states
from zephyr.models.own_cache import takes
from zephyr.trees.forest import Forest, all_scored, build_forest

if TYPE_CHECKING:
    from transformers.cache_utils import LinearAttentionLayer

# Layers of a cache that are known to be read before they are replaced; others might write into what a gradient needs.
# By name, for older versions of transformers may lack some of them.
_LINEAR = {
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}
_KNOWN = _LINEAR | {"DummyLayer", "DynamicLayer", "DynamicSlidingWindowLayer"}
# The tokens of the trial: a prefix, longer than any convolution, and two branches that fork once more.
_PREFIX, _BRANCH, _TAIL = 12, 5, 4
# What is computed in two ways differs by less than this share of its size, or than the root of a last bit.
_LEAST_TOLERANCE = 1e-4


class Stretch(NamedTuple):
    """Tokens ``start <= i < end`` of a forest without a fork inside; ``parent``: where its prefix ends, -1 for none."""

    start: int
    end: int
    parent: int
    is_forked: bool


def stretches(forest: Forest) -> list[Stretch]:
    """The forest cut at its forks, in the order of its tokens; each stretch once."""
    forks = sorted({chain.path[-1][1] for chain in forest.chains if chain.path})
    return [stretch for chain in forest.chains for stretch in _cut(chain.start, chain.end, chain.path, forks)]


def _cut(start: int, end: int, path: tuple[tuple[int, int], ...], forks: list[int]) -> Iterator[Stretch]:
    parent = path[-1][1] if path else -1
    for stop in [*(fork for fork in forks if start < fork < end), end]:
        yield Stretch(start, stop, parent, stop in forks)
        start, parent = stop, stop


def stretch_hidden_states(
    decoder: nn.Module, forest: Forest, *, output_router_logits: bool = False, num_passes: int = 0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What ``chain_hidden_states`` gives, every token computed once.

    The decoder is run ``num_passes`` times, where that is more often than there are stretches. Raises TypeError where
    its cache is none that can be copied.
    """
    keywords: dict[str, object] = {"output_router_logits": True} if output_router_logits else {}
    name = "cache_params" if takes(decoder, "cache_params") else "past_key_values"
    states: dict[int, Cache] = {}
    hidden, routers = [], []
    for start, end, parent, is_forked in stretches(forest):
        ids = forest.ids[None, start:end]
        given = {name: _branch(states[parent])} if parent >= 0 else {}
        output = decoder(input_ids=ids, use_cache=is_forked or parent >= 0, **given, **keywords)
        if is_forked:
            states[end] = getattr(output, name)
        hidden.append(output.last_hidden_state[0])
        routers.append([layer.view(end - start, -1) for layer in getattr(output, "router_logits", None) or ()])
    together = torch.cat(hidden)
    for _ in range(num_passes - len(hidden)):
        output = decoder(input_ids=forest.ids[None, :1], use_cache=False, **keywords)
        together = together + output.last_hidden_state.sum() * 0.0
    return together, tuple(torch.cat(layer) for layer in zip(*routers, strict=True))


def can_carry_state(decoder: nn.Module, vocab_size: int, longest: int | None, device: torch.device) -> bool:
    """Whether the decoder, on a few tokens, computes the same from stretch to stretch as one sequence a row.

    A few forward passes without gradients, equally many on every rank; none of a decoder that sequences may be too long
    for, of more than ``longest`` tokens.
    """
    if longest is not None and longest < _PREFIX + _BRANCH + _TAIL:
        return False
    ids = np.random.default_rng(0).integers(0, vocab_size, (2, _PREFIX + _BRANCH + _TAIL))
    ids[1, :_PREFIX] = ids[0, :_PREFIX]
    nested = np.concatenate([ids[0, : _PREFIX + _BRANCH], ids[1, -_TAIL:]])
    forest = build_forest([all_scored(one) for one in (ids[0], nested, ids[1])]).to(device)
    with torch.no_grad():
        rows = chain_hidden_states(decoder, forest)[0]
        is_lowered = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_lowered else rows.dtype
        try:
            return are_close([stretch_hidden_states(decoder, forest)[0]], [rows], dtype)
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            # Whatever a cache of another's says of several tokens at once, or a simulation of numbers it does not have;
            # ProphetNet asserts that there is one token.
            return False


def are_close(first: Sequence[Tensor], second: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether tensors, pairwise of one shape, differ by no more than two ways to compute the same in this dtype."""
    tolerance = max(_LEAST_TOLERANCE, math.sqrt(torch.finfo(dtype).eps))
    return _norm([one - other for one, other in zip(first, second, strict=True)]) <= tolerance * _norm(second)


def _norm(tensors: Sequence[Tensor]) -> float:
    norms = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors]
    return math.sqrt(sum(norm * norm for norm in norms))


def _branch(cache: Cache) -> Cache:
    """A copy of the state that a branch goes on from, and that writes into none of its tensors."""
    if type(cache) is not DynamicCache or any(type(layer).__name__ not in _KNOWN for layer in cache.layers):
        raise TypeError(f"a cache that is none of transformers' dynamic ones, got {type(cache).__name__}")
    branch = copy(cache)
    branch.layers = [
        _linear(layer) if type(layer).__name__ in _LINEAR else copy(layer)  # type: ignore[arg-type]
        for layer in cache.layers
    ]
    return branch


def _linear(layer: LinearAttentionLayer) -> LinearAttentionLayer:
    copied = copy(layer)
    copied.conv_states, copied.recurrent_states = dict(layer.conv_states), dict(layer.recurrent_states)
    copied.update_conv_state = partial(_conv_state, copied)  # type: ignore[method-assign]
    copied.update_recurrent_state = partial(_recurrent_state, copied)  # type: ignore[method-assign]
    return copied


def _conv_state(layer: LinearAttentionLayer, states: Tensor, state_idx: int = 0, **_sizes: object) -> Tensor:
    """What transformers' method gives, without writing in place, which would break the gradients of other branches."""
    before, size = layer.conv_states[state_idx], layer.conv_kernel_size[state_idx]
    assert before is not None
    assert size is not None
    whole = torch.cat([before, states], dim=-1)
    layer.conv_states[state_idx] = whole[..., -size:]
    return whole


def _recurrent_state(layer: LinearAttentionLayer, states: Tensor, state_idx: int = 0, **_sizes: object) -> Tensor:
    layer.recurrent_states[state_idx] = states
    return states
