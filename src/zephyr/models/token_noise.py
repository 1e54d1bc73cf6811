"""What is drawn for tokens while training, the same for a token wherever it is computed.

That is noise on the embeddings (NEFTune), and dropout on what adapters are given. What is drawn for a token is a
function of the step and of all tokens up to it. So sequences that begin alike share it, as they share everything else
there, and it does not depend on the cut into micro-batches or on the number of ranks. What a model would draw otherwise
is switched off.

Source: NEFTune, arXiv 2310.05914.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zephyr.trees.forest import Forest, ScoredSequence

logger = logging.getLogger(__name__)

# Numbers that are drawn at a time: what is computed in 64 bits stays small.
DRAWN_TOGETHER = 1 << 22
_BITS = 24
# Of splitmix64: Steele et al., Fast splittable pseudorandom number generators, 2014.
_GOLDEN = -0x61C8864680B583EB
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_SHIFTS = (30, 27, 31)


class TokenNoise(NamedTuple):
    """What an optimizer step draws: noise up to alpha / sqrt(longest * width), unless None, and dropout.

    ``longest``: the length of the batch's longest sequence.
    """

    alpha: float | None
    longest: int
    seed: int
    step: int
    dropout: float = 0.0

    def on(self, hashes: Tensor, embedded: Tensor) -> Tensor:
        """Embeddings (..., T, H) with noise, for tokens whose paths have these ``hashes`` (T,)."""
        if self.alpha is None:
            return embedded
        scale = self.alpha / math.sqrt(self.longest * embedded.shape[-1])
        return embedded + (scale * self._drawn(hashes, embedded.shape[-1])).to(embedded.dtype)

    def dropped(self, hashes: Tensor, given: Tensor, number: int) -> Tensor:
        """What adapter ``number`` is given for tokens of ``hashes`` (T,), a share of it 0 and the rest scaled up."""
        kept = self._drawn(hashes, given.shape[-1], number + 1) >= 2 * self.dropout - 1
        return given * (kept / (1 - self.dropout)).to(given.dtype)

    def _drawn(self, hashes: Tensor, width: int, number: int = 0) -> Tensor:
        """(T, width) numbers from -1 to 1, uniform and independent."""
        key = hashes.new_full((), self.seed)
        for part in (self.step, number):
            key = _mixed(hashes.new_full((), part) + _mixed(key))
        keys = _mixed(hashes + key)
        columns = _mixed(torch.arange(width, device=hashes.device))
        drawn = [_uniform(some[:, None] + columns) for some in torch.split(keys, max(1, DRAWN_TOGETHER // width))]
        return torch.cat(drawn)


def token_noise(
    alpha: float | None, dropout: float, rows: Sequence[Sequence[ScoredSequence]], *, seed: int, step: int
) -> TokenNoise | None:
    """The noise of an optimizer step on these rows, its global batch; None where nothing is drawn."""
    if alpha is None and not dropout:
        return None
    return TokenNoise(alpha, max(len(sequence.ids) for row in rows for sequence in row), seed, step, dropout)


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


class Noise(NamedTuple):
    """A setting of a module that is switched off, and what it was."""

    module: nn.Module
    name: str
    value: float


def is_jittering(module: nn.Module) -> bool:
    """Whether a router would move what it is given at random in training."""
    return any("jitter_noise" in name and isinstance(value, float) and value for name, value in vars(module).items())


def switch_noise_off(model: nn.Module) -> list[Noise]:
    """Set dropout and layer drop to 0 in place, and say so if any was on."""
    found = [
        Noise(module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and value and _is_noise(module, name)
    ]
    for module, name, _ in found:
        setattr(module, name, 0.0)
    if found:
        names = sorted({"dropout" if name == "p" else name for _, name, _ in found})
        logger.info("%s: switched off for training on shared prefixes", ", ".join(names))
    return found


def _is_noise(module: nn.Module, name: str) -> bool:
    return "dropout" in name or "layerdrop" in name or (name == "p" and isinstance(module, nn.Dropout))
