"""A reference that follows the policy: every so many steps its weights move towards the policy's.

The weights that train are kept a second time. Where the reference must score, they and the policy's change places,
so there is one model on the device and nothing of it is computed twice. Until the first move the reference is the
one that the store holds.
Source: TR-DPO, arXiv 2404.09656.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from zephyr.errors import RecipeError
from zephyr.models.batch_scoring import ScoredRow, device_of, score_table
from zephyr.models.scorer import CausalLM, ForestScorer
from zephyr.recipe.objective_section import SyncedObjective
from zephyr.train.objectives import Objective

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MovingReference:
    """The reference's ``weights`` by the policy's names for them; after every ``sync_steps`` steps they move."""

    weights: dict[str, Tensor]
    sync_steps: int
    mixup: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on with this reference."""
        return {f"moving_reference/{name}": tensor for name, tensor in self.weights.items()}

    def has_moved(self, step: int) -> bool:
        """Whether after ``step`` optimizer steps the reference is another than at the start."""
        return step >= self.sync_steps

    def follow(self, scorer: ForestScorer, step: int) -> None:
        """Move the weights if a move is due after ``step`` optimizer steps."""
        if step % self.sync_steps == 0:
            policy = _trained(scorer)
            here = [_local(policy[name]) for name in self.weights]
            mix_reference(map(_local, self.weights.values()), here, mixup=self.mixup)

    def logps(self, scorer: ForestScorer, rows: Sequence[ScoredRow], *, max_tokens: int) -> Tensor:
        """(n, C) float64 log-probs of the rows under the reference as it is now."""
        with self._in_place_of(scorer):
            return score_table(scorer, rows, max_tokens=max_tokens, device=device_of(scorer)).logps

    @contextmanager
    def _in_place_of(self, scorer: ForestScorer) -> Iterator[None]:
        self._change_places(scorer)
        try:
            yield
        finally:
            self._change_places(scorer)

    def _change_places(self, scorer: ForestScorer) -> None:
        policy = _trained(scorer)
        with torch.no_grad():
            for name, weight in self.weights.items():
                ours, theirs = _local(weight), _local(policy[name])
                kept = theirs.clone()
                theirs.copy_(ours)
                ours.copy_(kept)


def mix_reference(reference: Iterable[Tensor], policy: Iterable[Tensor], *, mixup: float) -> None:
    """Move each weight of the reference, of any shape, in place, to mixup * policy + (1 - mixup) * reference.

    The log-probabilities of a moving reference go into no store: compute them with `score_table` as needed. Raises
    ValueError for a mixup outside of (0, 1].
    Source: TR-DPO, soft update, arXiv 2404.09656 (every 512 steps with mixup 0.6).
    """
    if not 0.0 < mixup <= 1.0:
        raise ValueError(f"mixup must be above 0 and at most 1, got {mixup}")
    with torch.no_grad():
        for moved, towards in zip(reference, policy, strict=True):
            moved.lerp_(towards.to(moved.dtype), mixup)


def moving_reference(objective: Objective, scorer: ForestScorer, reference: CausalLM | None) -> MovingReference | None:
    """The objective's moving reference as it starts out, or None if its reference stays.

    It starts as the policy, or as ``reference``, which must then have the policy's shape. Raises
    RecipeError for a policy or reference that cannot move so.
    """
    options = objective.options
    if not isinstance(options, SyncedObjective) or options.reference_sync_steps is None:
        return None
    if scorer.has_adapters or not all(weight.requires_grad for weight in scorer.parameters()):
        raise RecipeError(
            "reference_sync_steps",
            "a moving reference needs a policy that trains all its weights, got adapters or frozen weights",
            "train all weights, or leave reference_sync_steps out",
        )
    weights = {name: weight.detach().clone() for name, weight in _trained(scorer).items()}
    if reference is not None:
        _start_from(weights, reference)
    moving = MovingReference(weights, options.reference_sync_steps, options.reference_mixup)
    logger.info("the reference moves by %s towards the policy every %d steps", moving.mixup, moving.sync_steps)
    return moving


def _start_from(weights: dict[str, Tensor], reference: CausalLM) -> None:
    given = {f"causal_lm.{name}": weight for name, weight in reference.named_parameters()}
    for name, weight in weights.items():
        if name not in given or given[name].shape != weight.shape:
            raise RecipeError(
                "reference_sync_steps",
                f"the reference cannot move towards a policy of another shape, as at {name}",
                "use the policy as its own reference, or a model of the same shape",
            )
        # Policy and reference are sharded alike, if they are.
        _local(weight).copy_(_local(given[name].detach()))


def _trained(scorer: ForestScorer) -> dict[str, Tensor]:
    """The weights that train, by name; of a sharded model the shards, gathered copies dropped."""
    for module in scorer.modules():
        # After a forward without gradients FSDP2 keeps what it gathered, and would not see new weights.
        if isinstance(module, FSDPModule):
            module.reshard()
    return {name: weight for name, weight in scorer.named_parameters() if weight.requires_grad}


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight
