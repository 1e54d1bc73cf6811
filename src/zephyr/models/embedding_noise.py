"""Noise on the embeddings while training (NEFTune), the same for a token wherever it is computed.

The noise of a token is a function of the step and of all tokens up to it. So sequences that begin alike share it, as
they share everything else there, and it does not depend on the cut into micro-batches or on the number of ranks.

Source: NEFTune, arXiv 2310.05914.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zephyr.trees.forest import Forest, ScoredSequence

# Numbers that are drawn at a time: what is computed in 64 bits stays small.
CHUNK = 1 << 22
_BITS = 24
# Of splitmix64: Steele et al., Fast splittable pseudorandom number generators, 2014.
_GOLDEN = -0x61C8864680B583EB
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_SHIFTS = (30, 27, 31)


class EmbeddingNoise(NamedTuple):
    """Uniform noise up to alpha / sqrt(longest * width); ``longest``: the length of the batch's longest sequence."""

    alpha: float
    longest: int
    seed: int
    step: int

    def on(self, hashes: Tensor, embedded: Tensor) -> Tensor:
        """Embeddings (..., T, H) with noise, for tokens whose paths have these ``hashes`` (T,)."""
        width = embedded.shape[-1]
        keys = _mixed(hashes + _mixed(hashes.new_tensor(self.step) + _mixed(hashes.new_tensor(self.seed))))
        columns = _mixed(torch.arange(width, device=hashes.device))
        drawn = [_uniform(some[:, None] + columns) for some in torch.split(keys, max(1, CHUNK // width))]
        scale = self.alpha / math.sqrt(self.longest * width)
        return embedded + (scale * torch.cat(drawn)).to(embedded.dtype)


def embedding_noise(
    alpha: float | None, rows: Sequence[Sequence[ScoredSequence]], *, seed: int, step: int
) -> EmbeddingNoise | None:
    """The noise of an optimizer step on these rows, its global batch; None without ``alpha``."""
    if alpha is None:
        return None
    return EmbeddingNoise(alpha, max(len(sequence.ids) for row in rows for sequence in row), seed, step)


def path_hashes(forest: Forest) -> Tensor:
    """(T,) int64 for each token of a forest, which says all tokens from its root to it."""
    terms = _terms(forest.ids, forest.position)
    hashes = torch.empty_like(terms)
    for chain in forest.chains:
        before = hashes[chain.path[-1][1] - 1] if chain.path else terms.new_zeros(())
        hashes[chain.start : chain.end] = before + terms[chain.start : chain.end].cumsum(0)
    return hashes


def row_hashes(ids: Tensor) -> Tensor:
    """The same (T,) for the tokens (T,) of one sequence."""
    return _terms(ids, torch.arange(len(ids), device=ids.device)).cumsum(0)


def _terms(ids: Tensor, position: Tensor) -> Tensor:
    return _mixed((position << 32) + ids)


def _mixed(numbers: Tensor) -> Tensor:
    """Int64 numbers of any shape, each spread over all bits; sums and products wrap around."""
    numbers = numbers + _GOLDEN
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        numbers = (numbers ^ _shifted(numbers, shift)) * multiplier
    return numbers ^ _shifted(numbers, _SHIFTS[-1])


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """Shifted to the right, with zeros from the left."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)


def _uniform(keys: Tensor) -> Tensor:
    """Float32 numbers from -1 to 1, one a key."""
    return _shifted(_mixed(keys), 64 - _BITS).float() / (1 << (_BITS - 1)) - 1
