"""How far rounding moves a log-prob, measured on the model itself: the tolerance of the checks before training.

The same number computed in another layout of sequences differs by what matrix products round, carried through all
layers. A constant cannot know that: a trained model of 135 million parameters is off by four times as much as a tiny
random one. Here last bits of each layer's products are changed at random, and the change of the log-probs is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zephyr.models.architecture import linear_layers
from zephyr.models.batch_scoring import device_of, frozen
from zephyr.models.scorer import ForestScorer
from zephyr.trees.forest import ScoredSequence, build_forest

# The share of a product's results in 16 bits that another order of its sum changes, by a last bit: the sum is made in
# float32 and rounded once.
SHARE_CHANGED = {torch.float16: 1 / 32, torch.bfloat16: 1 / 32}
# A float32 sum of K terms rounds at each of them. Two orders of it differ by this times sqrt(K) last bits of the root
# of the sum of its squared terms, as a standard deviation: a rounding is uniform within half a bit of a partial sum,
# which grows as the root of its terms. The size of the result does not matter: terms that cancel leave roundings.
OF_ROOT = 0.2
# The least rounding of one token's log-prob in nats, as a standard deviation, where a probe shows less.
LEAST_ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# Errors of tokens are nearly independent, so a sum over n is off by sqrt(n) of them, never by six times that.
SIGMAS = 6.0
NUM_DRAWS = 3


class Rounding(NamedTuple):
    """What rounding does to a token's log-prob, in nats, as a standard deviation, by the precision that computes."""

    dtype: torch.dtype
    per_token: float

    def tolerance(self, num_tokens: Tensor) -> Tensor:
        """How far apart two computations of a sum over `num_tokens` log-probs may be; same shape, float64."""
        return SIGMAS * self.per_token * num_tokens.double().clamp(min=1).sqrt()


def least_rounding(dtype: torch.dtype) -> Rounding:
    """What is assumed where nothing was measured."""
    return Rounding(dtype, LEAST_ROUNDING[dtype])


def measured_rounding(scorer: ForestScorer, sequences: Sequence[ScoredSequence], *, dtype: torch.dtype) -> Rounding:
    """The rounding of this model on these sequences, which share a forest; four forward passes.

    With a sharded scorer every rank must pass equally many sequences.
    """
    plain = _logps(scorer, sequences)
    num_tokens = torch.tensor([int(sequence.scored.sum()) for sequence in sequences]).double().clamp(min=1)
    drawn = torch.Generator().manual_seed(0)

    def moved(module: nn.Module, inputs: Sequence[Tensor], output: Tensor | tuple[Tensor, ...]) -> Tensor | None:
        if not isinstance(output, Tensor):  # some routers are linear layers that give more than their product
            return None
        uniform, last_bit = torch.rand(output.shape, generator=drawn).to(output.device), torch.finfo(output.dtype).eps
        share = SHARE_CHANGED.get(output.dtype, 1.0)
        change = (uniform < share / 2).to(output.dtype) - (uniform > 1 - share / 2).to(output.dtype)
        root = None if output.dtype in SHARE_CHANGED or not inputs else _root_of_terms(module, inputs[0])
        if root is None or root.shape != output.shape:
            return output * (1 + last_bit * change)
        return output + OF_ROOT * last_bit * change * root.to(output.dtype)

    hooks = [module.register_forward_hook(moved) for module in linear_layers(scorer).values()]
    try:
        changes = torch.stack([_logps(scorer, sequences) - plain for _ in range(NUM_DRAWS)])
    finally:
        for hook in hooks:
            hook.remove()
    per_token = float((changes.square() / num_tokens).mean().sqrt())
    return Rounding(dtype, max(per_token, LEAST_ROUNDING[dtype]))


def _root_of_terms(module: nn.Module, given: Tensor) -> Tensor:
    """Of each sum (..., out) that a matrix product is: sqrt(K) times the root of the sum of its K squared terms."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    squared = weight.to(given.dtype).square()
    sums: Tensor = given.square() @ (squared.T if isinstance(module, nn.Linear) else squared)
    return sums.sqrt() * math.sqrt(given.shape[-1])


def _logps(scorer: ForestScorer, sequences: Sequence[ScoredSequence]) -> Tensor:
    with frozen(scorer):
        logps: Tensor = scorer(build_forest(sequences).to(device_of(scorer))).logps
        return logps.cpu().double()
