"""One optimizer step: which examples it sees, and their gradient, cut into micro-batches.

The loss is normalised over the global batch, so the cut changes memory and speed, never the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.models.batch_scoring import (
    ScoredRow,
    ScoreTable,
    device_of,
    my_micro_batches,
    score_rows,
    score_table,
    sum_over_ranks,
    token_visits,
)
from zephyr.models.collectives import is_distributed, world_size
from zephyr.models.router import ExpertUse, balance_loss, expert_use
from zephyr.models.scorer import ForestScorer
from zephyr.recipe.steps import Steps
from zephyr.recipe.train_section import TrainSection
from zephyr.train.metrics import Shares
from zephyr.train.objectives import Objective, Scored, Totals
from zephyr.trees.forest import sent


def step_indices(steps: Steps, step: int, *, seed: int, shuffle: bool = True) -> list[int]:
    """The examples of 0-based ``step``: a function of seed and step alone, so that resuming needs no state."""
    epoch, place = divmod(step, steps.steps_per_epoch)
    order = np.arange(steps.num_examples)
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(steps.num_examples)
    return [int(index) for index in order[place * steps.batch_size : (place + 1) * steps.batch_size]]


def drawn_indices(steps: Steps, *, seed: int, shuffle: bool = True) -> set[int]:
    """The examples that any step sees: all of them, unless the steps end within the first epoch."""
    if steps.num_steps >= steps.steps_per_epoch:
        return set(range(steps.num_examples))
    drawn = (step_indices(steps, step, seed=seed, shuffle=shuffle) for step in range(steps.num_steps))
    return set(chain.from_iterable(drawn))


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step, the same on every rank; B examples, C columns.

    ``labels`` (B, C) float64. ``ref_logps`` (B, C) float64 on the CPU, None for an objective without a reference.
    """

    objective: Objective
    examples: Sequence[Example]
    rows: Sequence[ScoredRow]
    totals: Totals
    labels: Tensor
    ref_logps: Tensor | None

    @property
    def names(self) -> list[str]:
        """Where the examples come from, for messages."""
        return [example.name for example in self.examples]

    def scored(self, table: ScoreTable, indices: Sequence[int] | None = None) -> Scored:
        """What the objective needs of the examples ``indices``, or of all, given their ``table`` of n rows."""
        device, chosen = table.logps.device, list(range(len(self.rows)) if indices is None else indices)
        return Scored(
            logps=table.logps,
            num_tokens=table.num_tokens,
            ref_logps=None if self.ref_logps is None else sent(self.ref_logps[chosen], device),
            mean_logits=table.mean_logits,
            labels=sent(self.labels[chosen], device),
            collisions=table.collisions,
        )


def make_batch(objective: Objective, examples: Sequence[Example], ref_logps: Tensor | None) -> Batch:
    """The batch of B examples, with the reference's log-probs (B, C) of them."""
    rows = [objective.sequences(example) for example in examples]
    return Batch(objective, examples, rows, objective.totals(examples), objective.labels(examples), ref_logps)


def accumulate_gradients(scorer: ForestScorer, batch: Batch, train: TrainSection) -> list[Shares]:
    """Add the gradient of the batch's loss to the parameters; this rank's shares of the loss and its metrics.

    The gradients of all ranks add up to that of the global batch, whatever the cut into micro-batches and ranks.
    Raises DataError for an example above ``max_tokens_per_micro_batch``.
    """
    objective, device, router_coef = batch.objective, device_of(scorer), train.router_aux_loss_coef
    micro_batches = my_micro_batches(batch.rows, max_tokens=train.max_tokens_per_micro_batch, names=batch.names)
    survey = _survey(scorer, batch, train, is_cut=len(micro_batches) > 1 or is_distributed())
    shares = list(survey.parts)
    for indices in micro_batches:
        rows = [batch.rows[index] for index in indices]
        with_collisions = objective.weighs_by_policy
        table = score_rows(scorer, rows, batch.labels.shape[1], device, with_collisions=with_collisions)
        if survey.coefficients is None:
            scored = batch.scored(table, indices)
            loss = objective.loss(scored, batch.totals)
            shares.append(Shares(loss.detach(), objective.metrics(scored)))
        else:
            loss = (sent(survey.coefficients[indices], device) * table.logps).sum()
        if router_coef > 0:
            visits = token_visits(rows, batch.labels.shape[1])
            use = survey.experts or _expert_use(scorer, visits)
            balance = router_coef * balance_loss(scorer.router_logits, visits, use)
            shares.append(Shares(balance.detach(), {}))
            loss = loss + balance
        # FSDP2 averages gradients over ranks, but these are shares of one sum.
        (loss * world_size()).backward()  # type: ignore[no-untyped-call]
    return shares


class _Survey(NamedTuple):
    """What the micro-batches must know of the whole batch before any gradient is taken.

    ``coefficients`` (B, C) are the loss's derivatives by each log-prob where the objective couples its examples, and
    ``parts`` that loss; ``experts`` tells how often each expert is chosen, for the router's balance loss.
    """

    coefficients: Tensor | None = None
    parts: tuple[Shares, ...] = ()
    experts: ExpertUse | None = None


def _survey(scorer: ForestScorer, batch: Batch, train: TrainSection, *, is_cut: bool) -> _Survey:
    """One pass without gradients, where the objective or the router needs to see the whole batch first."""
    objective, device = batch.objective, device_of(scorer)
    couples, balances = objective.coupled, train.router_aux_loss_coef > 0
    if not is_cut or not (couples or balances):
        return _Survey()
    uses: list[ExpertUse] = [ExpertUse.none(scorer.num_experts, device)]

    def count(indices: list[int]) -> None:
        if balances and indices:
            visits = token_visits([batch.rows[index] for index in indices], batch.labels.shape[1])
            uses.append(_expert_use(scorer, visits))

    max_tokens = train.max_tokens_per_micro_batch
    with_collisions = objective.weighs_by_policy
    table = score_table(
        scorer, batch.rows, max_tokens=max_tokens, device=device, after=count, with_collisions=with_collisions
    )
    experts = _summed(uses, device) if balances else None
    if not couples:
        return _Survey(experts=experts)
    logps = table.logps.clone().requires_grad_()
    scored = batch.scored(table._replace(logps=logps))
    loss, metrics = objective.loss(scored, batch.totals), objective.metrics(scored)
    (coefficients,) = torch.autograd.grad(loss, logps)
    # Every rank has the whole loss here; each reports its part of it.
    part = Shares(loss.detach() / world_size(), {k: m.divided(world_size()) for k, m in metrics.items()})
    return _Survey(coefficients, (part,), experts)


def _expert_use(scorer: ForestScorer, visits: Tensor) -> ExpertUse:
    """The use of the experts in the scorer's last forward; ``visits`` (T,)."""
    return expert_use(scorer.router_logits, visits, top_k=scorer.experts_per_token)


def _summed(uses: Sequence[ExpertUse], device: torch.device) -> ExpertUse:
    """The use of the experts in all micro-batches of all ranks."""
    chosen = torch.stack([use.chosen for use in uses]).sum(0)
    num_rows = torch.stack([use.num_rows for use in uses]).sum()
    return ExpertUse(sum_over_ranks(chosen, device), sum_over_ranks(num_rows, device))
