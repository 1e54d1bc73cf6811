"""How far training has moved the weights, measured on a sample of them: a run that moves none has learned nothing.

Updates get lost where the learning rate is 0, where no example has a gradient, where weights are too coarse for them,
and where a setting (Adam's epsilon, gradient clipping, beta) makes them tiny; the loss alone does not show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zephyr.errors import InvariantError
from zephyr.models.collectives import on_every_rank
from zephyr.train.checks.health import HealthNote

# Elements that are compared of each parameter's part on a rank.
SAMPLED_ELEMENTS = 4096
# Of all weights, also those of tokens that are not in the data. Full training moves tens of percents.
FEW_MOVED = 0.01
# Adam and Lion move a weight by about the learning rate a step, whatever its gradient. A share of this of one step is
# what remains where something makes the gradient tiny before or inside of the optimizer.
LEAST_OF_RATE = 1e-3
# So many steps after the warm-up a run is stopped that moves nothing.
EARLY_STEP = 10
WIDE_BYTES = 4


class Movement(NamedTuple):
    """The share of the weights that moved, and the largest mean movement of a tensor; None of 16-bit weights."""

    share: float
    largest: float | None


def sample_weights(model: nn.Module) -> list[Tensor]:
    """Evenly spread elements of each trainable parameter's part on this rank, copied to the CPU; (k,) each."""
    return [_sampled(part).cpu().clone() for part in _trainable(model)]


def movement(model: nn.Module, before: Sequence[Tensor]) -> Movement:
    """How the trainable weights differ from ``before``, which ``sample_weights`` gave, (k,) each; a collective call."""
    parts = _trainable(model)
    changes = [(_sampled(part).cpu() - old).double().abs() for part, old in zip(parts, before, strict=True)]
    moved = [float((change > 0).double().mean()) * part.numel() for change, part in zip(changes, parts, strict=True)]
    is_wide = all(part.element_size() >= WIDE_BYTES for part in parts)
    largest = max((float(change.mean()) for change in changes), default=0.0)
    over_ranks = on_every_rank(lambda: (sum(moved), sum(part.numel() for part in parts), largest, is_wide))
    numbers, counts, of_ranks, are_wide = zip(*over_ranks, strict=True)
    return Movement(sum(numbers) / sum(counts), max(of_ranks) if all(are_wide) else None)


def check_moved(moved: Movement, step: int, line: Mapping[str, float], *, of_rate: float | None) -> list[HealthNote]:
    """A note if few weights have moved in ``step`` steps. Raises InvariantError if none has, or hardly.

    ``line`` is what was logged of the last step; ``of_rate`` the highest learning rate so far, None for optimizers
    whose steps follow the size of the gradient.
    """
    learning_rate, grad_norm = line.get("learning_rate", 0.0), line.get("grad_norm", 0.0)
    if moved.share == 0:
        raise InvariantError(
            "training",
            f"no weight has moved in {step:,} steps; at the last the learning rate was {learning_rate:g} and the "
            f"gradient norm {grad_norm:g}",
            "check that the rows differ in what is learned, learning_rate and warm-up, and try precision float32",
        )
    if of_rate is not None and moved.largest is not None and moved.largest < LEAST_OF_RATE * of_rate:
        raise InvariantError(
            "training",
            f"the weights hardly move: in {step:,} steps by {moved.largest:.1e} on average where they move most, and "
            f"one step at the learning rate {of_rate:g} is a thousand times that; the gradient norm was {grad_norm:g}",
            "something makes the gradient tiny: look at max_grad_norm, adam_epsilon, the objective's beta and weights, "
            "and the rows",
        )
    if moved.share >= FEW_MOVED:
        return []
    words = (
        f"only {moved.share:.2%} of the weights have moved in {step:,} steps: few examples have a gradient, or "
        "bfloat16 weights are too coarse for the updates; raise learning_rate, or train with precision bf16, which "
        "keeps float32 weights"
    )
    return [HealthNote("few_weights_moved", step, words)]


def _trainable(model: nn.Module) -> list[Tensor]:
    """The part of each trainable parameter that is on this rank."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters() if p.requires_grad]
    return [part.detach() for part in parts if part.numel()]


def _sampled(part: Tensor) -> Tensor:
    flat = part.reshape(-1)
    return flat[:: -(-flat.numel() // SAMPLED_ELEMENTS)]
