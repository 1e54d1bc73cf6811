"""How many weights training has moved, measured on a sample of them: a run that moves none has learned nothing.

Updates get lost where the learning rate is 0, where no example has a gradient, and where weights are too coarse for
them; the loss alone does not show it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zephyr.errors import InvariantError
from zephyr.models.collectives import on_every_rank
from zephyr.train.checks.health import HealthNote

# Elements that are compared of each parameter's part on a rank.
SAMPLED_ELEMENTS = 4096
# Of all weights, also those of tokens that are not in the data. Full training moves tens of percents.
FEW_MOVED = 0.01


def sample_weights(model: nn.Module) -> list[Tensor]:
    """Evenly spread elements of each trainable parameter's part on this rank, copied to the CPU; (k,) each."""
    return [_sampled(part).cpu().clone() for part in _trainable(model)]


def moved_share(model: nn.Module, before: Sequence[Tensor]) -> float:
    """The share of the trainable weights that differ from ``before``, which ``sample_weights`` gave, (k,) each.

    A collective call.
    """
    parts = _trainable(model)
    moved = [float((_sampled(part).cpu() != old).double().mean()) for part, old in zip(parts, before, strict=True)]
    mine = (sum(share * part.numel() for share, part in zip(moved, parts, strict=True)), sum(p.numel() for p in parts))
    over_ranks = on_every_rank(lambda: mine)
    return sum(number for number, _ in over_ranks) / sum(count for _, count in over_ranks)


def check_moved(share: float, *, step: int, learning_rate: float, grad_norm: float) -> list[HealthNote]:
    """A note if few weights have moved in ``step`` steps. Raises InvariantError if none has."""
    if share == 0:
        raise InvariantError(
            "training",
            f"no weight has moved in {step:,} steps; at the last the learning rate was {learning_rate:g} and the "
            f"gradient norm {grad_norm:g}",
            "check that the rows differ in what is learned, learning_rate and warm-up, and try precision float32",
        )
    if share >= FEW_MOVED:
        return []
    words = (
        f"only {share:.2%} of the weights have moved in {step:,} steps: few examples have a gradient, or bfloat16 "
        "weights are too coarse for the updates; raise learning_rate, or train with precision bf16, which keeps "
        "float32 weights"
    )
    return [HealthNote("few_weights_moved", step, words)]


def _trainable(model: nn.Module) -> list[Tensor]:
    """The part of each trainable parameter that is on this rank."""
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters() if p.requires_grad]
    return [part.detach() for part in parts if part.numel()]


def _sampled(part: Tensor) -> Tensor:
    flat = part.reshape(-1)
    return flat[:: -(-flat.numel() // SAMPLED_ELEMENTS)]
