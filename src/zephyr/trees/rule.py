"""The attention rule in its plainest form: a T x T mask and a softmax, for tests and run-time proofs only."""

from __future__ import annotations

import torch
from torch import Tensor

from zephyr.trees.forest import Forest


def visible(forest: Forest, window: int | None = None) -> Tensor:
    """(T, T) bool: query i (row) sees key j (column).

    ``j <= i < reach[j]``, and with a sliding window also ``position[i] - position[j] < window``.
    """
    index = torch.arange(forest.num_tokens, device=forest.reach.device)
    query, key = index[:, None], index[None, :]
    seen = (key <= query) & (query < forest.reach[None, :])
    if window is not None:
        seen &= forest.position[:, None] - forest.position[None, :] < window
    return seen


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: Forest,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention (1, Hq, T, D) by the definition, in the inputs' precision; Hq is a multiple of key's heads."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible(forest, window), float("-inf"))
    return scores.softmax(-1) @ value
