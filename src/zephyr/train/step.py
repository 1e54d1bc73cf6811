"""One optimizer step: which examples it sees, and their gradient, cut into micro-batches.

The loss is normalised over the global batch, so the cut changes memory and speed, never the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from zephyr.data.tokenize.token_store import Example
from zephyr.models.batch_scoring import (
    ScoredRow,
    ScoreTable,
    device_of,
    laid_out,
    my_micro_batches,
    score_forest,
    score_table,
    sum_over_ranks,
    token_visits,
    unique_tokens,
)
from zephyr.models.collectives import is_distributed, world_size
from zephyr.models.router import ExpertUse, balance_loss, expert_use
from zephyr.models.scorer import ForestScorer
from zephyr.recipe.steps import Steps
from zephyr.recipe.train_section import TrainSection
from zephyr.train.distributed import full_value
from zephyr.train.metrics import Shares
from zephyr.train.objectives import Objective, Scored, Totals
from zephyr.trees.forest import Forest, sent


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

    ``sizes``: the unique tokens of each row. ``labels`` (B, C) float64. ``ref_logps`` (B, C) float64 on the CPU, None
    for an objective without a reference. ``ahead``: micro-batches that are laid out already, by their examples.
    """

    objective: Objective
    examples: Sequence[Example]
    rows: Sequence[ScoredRow]
    sizes: Sequence[int]
    totals: Totals
    labels: Tensor
    ref_logps: Tensor | None
    ahead: dict[tuple[int, ...], Forest] = field(default_factory=dict, compare=False, repr=False)

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

    def table(
        self, scorer: ForestScorer, train: TrainSection, after: Callable[[list[int]], None] | None = None
    ) -> ScoreTable:
        """The scores of all examples as by ``score_table``."""
        return score_table(
            scorer,
            self.rows,
            max_tokens=train.max_tokens_per_micro_batch,
            device=device_of(scorer),
            sizes=self.sizes,
            after=after,
            with_collisions=self.objective.weighs_by_policy,
        )

    def lay_out_first(self, train: TrainSection, device: torch.device) -> None:
        """Lay out this rank's first micro-batch ahead, while the device is at work on another batch."""
        _lay_out(self, _micro_batches(self, train)[:1], device)


def make_batch(objective: Objective, examples: Sequence[Example], ref_logps: Tensor | None) -> Batch:
    """The batch of B examples, with the reference's log-probs (B, C) of them."""
    rows = [objective.sequences(example) for example in examples]
    totals, labels = objective.totals(examples), objective.labels(examples)
    return Batch(objective, examples, rows, unique_tokens(rows), totals, labels, ref_logps)


def _lay_out(batch: Batch, micro_batches: Sequence[Sequence[int]], device: torch.device) -> None:
    for indices in micro_batches:
        if tuple(indices) not in batch.ahead:
            rows = [batch.rows[index] for index in indices]
            batch.ahead[tuple(indices)] = laid_out(rows, batch.labels.shape[1], device)


def _micro_batches(batch: Batch, train: TrainSection) -> list[list[int]]:
    return my_micro_batches(batch.sizes, max_tokens=train.max_tokens_per_micro_batch, names=batch.names)


def accumulate_gradients(scorer: ForestScorer, batch: Batch, train: TrainSection) -> list[Shares]:
    """Add the gradient of the batch's loss to the parameters; this rank's shares of the loss and its metrics.

    The gradients of all ranks add up to that of the global batch, whatever the cut into micro-batches and ranks.
    Raises DataError for an example above ``max_tokens_per_micro_batch``.
    """
    objective, device, router_coef = batch.objective, device_of(scorer), train.router_aux_loss_coef
    micro_batches = _micro_batches(batch, train)
    survey = _survey(scorer, batch, train, is_cut=len(micro_batches) > 1 or is_distributed())
    shares = list(survey.parts)
    for number, indices in enumerate(micro_batches):
        _lay_out(batch, [indices], device)
        forest = batch.ahead.pop(tuple(indices))
        with_collisions = objective.weighs_by_policy
        table = score_forest(scorer, forest, batch.labels.shape[1], with_collisions=with_collisions)
        if survey.coefficients is None:
            scored = batch.scored(table, indices)
            loss = objective.loss(scored, batch.totals)
            shares.append(Shares(loss.detach(), objective.metrics(scored)))
        else:
            loss = (sent(survey.coefficients[indices], device) * table.logps).sum()
        if router_coef > 0:
            visits = token_visits([batch.rows[index] for index in indices], batch.labels.shape[1])
            use = survey.experts or _expert_use(scorer, visits)
            balance = router_coef * balance_loss(scorer.router_logits, visits, use)
            shares.append(Shares(balance.detach(), {}))
            loss = loss + balance
        # While the device computes what it was given.
        _lay_out(batch, micro_batches[number + 1 : number + 2], device)
        # FSDP2 averages gradients over ranks, but these are shares of one sum.
        (loss * world_size()).backward()  # type: ignore[no-untyped-call]
    return shares


def clip_gradients(scorer: ForestScorer, limit: float | None) -> Tensor:
    """The norm () of the gradient, which is scaled down to ``limit`` if it is above."""
    parameters = [parameter for parameter in scorer.parameters() if parameter.grad is not None]
    return full_value(clip_grad_norm_(parameters, float("inf") if limit is None else limit))


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

    table = batch.table(scorer, train, after=count)
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
