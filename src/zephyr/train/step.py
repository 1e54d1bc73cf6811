"""One optimizer step: which examples it sees, and their gradient, cut into micro-batches.

The loss is normalised over the global batch, so the cut changes memory and speed, never the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.models.batch_scoring import (
    Row,
    ScoreTable,
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
from zephyr.train.metrics import Shares
from zephyr.train.objectives import Objective, Scored, Totals


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step, the same on every rank; B examples, C columns.

    ``ref_logps`` (B, C) float64 on the CPU, None for an objective without a reference.
    """

    examples: Sequence[Example]
    rows: Sequence[Row]
    totals: Totals
    labels: Tensor
    ref_logps: Tensor | None

    @property
    def names(self) -> list[str]:
        """Where the examples come from, for messages."""
        return [example.name for example in self.examples]

    def scored(self, table: ScoreTable, indices: Sequence[int] | None = None) -> Scored:
        """What the policy made of the examples ``indices``, or of all: ``table`` (n, C) beside their references."""
        device, chosen = table.logps.device, list(range(len(self.rows)) if indices is None else indices)
        return Scored(
            logps=table.logps,
            num_tokens=table.num_tokens,
            ref_logps=None if self.ref_logps is None else self.ref_logps[chosen].to(device),
            mean_logits=table.mean_logits,
            labels=self.labels[chosen].to(device),
        )


class Layout(Sequence[Row]):
    """The sequences of every example, laid out by the objective each time they are asked for.

    Held for all examples at once they would take many times the memory of the examples themselves.
    """

    def __init__(self, objective: Objective, examples: Sequence[Example]) -> None:
        self._objective = objective
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Layout: ...  # type: ignore[explicit-any]  # of slice itself
    def __getitem__(self, index: int | slice) -> Row | Layout:  # type: ignore[explicit-any]
        if isinstance(index, slice):
            return Layout(self._objective, self._examples[index])
        return self._objective.sequences(self._examples[index])


@dataclass(frozen=True)
class Engine:
    """What every step runs on: the policy, the objective, the token budget of a micro-batch and the device."""

    scorer: ForestScorer
    objective: Objective
    max_tokens: int
    device: torch.device
    router_coef: float = 0.0


class _Survey(NamedTuple):
    """What the micro-batches must know of the whole batch before any gradient is taken.

    ``coefficients`` (B, C) are the loss's derivatives by each log-prob where the objective couples its examples, and
    ``parts`` that loss; ``experts`` tells how often each expert is chosen, for the router's balance loss.
    """

    coefficients: Tensor | None = None
    parts: tuple[Shares, ...] = ()
    experts: ExpertUse | None = None


def step_indices(steps: Steps, step: int, *, seed: int, shuffle: bool = True) -> list[int]:
    """The examples of 0-based ``step``: a function of seed and step alone, so that resuming needs no state."""
    epoch, place = divmod(step, steps.steps_per_epoch)
    order = np.arange(steps.num_examples)
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(steps.num_examples)
    return [int(index) for index in order[place * steps.batch_size : (place + 1) * steps.batch_size]]


def make_batch(objective: Objective, examples: Sequence[Example], ref_logps: Tensor | None) -> Batch:
    """The batch of some examples under an objective, with the reference's log-probs of the same examples."""
    rows = [objective.sequences(example) for example in examples]
    return Batch(examples, rows, objective.totals(examples), objective.labels(examples), ref_logps)


def accumulate_gradients(engine: Engine, batch: Batch) -> list[Shares]:
    """Add the gradient of the step's loss to the parameters and give back this rank's shares of the loss.

    The gradients of all ranks add up to that of the global batch, whatever the cut into micro-batches and ranks.
    """
    objective = engine.objective
    micro_batches = my_micro_batches(batch.rows, max_tokens=engine.max_tokens, names=batch.names)
    survey = _survey(engine, batch, is_cut=len(micro_batches) > 1 or is_distributed())
    shares = list(survey.parts)
    for indices in micro_batches:
        rows = [batch.rows[index] for index in indices]
        table = score_rows(engine.scorer, rows, batch.labels.shape[1], engine.device)
        if survey.coefficients is None:
            scored = batch.scored(table, indices)
            loss = objective.loss(scored, batch.totals)
            shares.append(Shares(loss.detach(), objective.metrics(scored)))
        else:
            loss = (survey.coefficients[indices].to(engine.device) * table.logps).sum()
        if engine.router_coef > 0:
            visits = token_visits(rows, batch.labels.shape[1])
            balance = _router_loss(engine, survey.experts, visits)
            shares.append(Shares(balance.detach(), {}))
            loss = loss + balance
        # FSDP2 averages gradients over ranks, but these are shares of one sum.
        (loss * world_size()).backward()  # type: ignore[no-untyped-call]
    return shares


def _survey(engine: Engine, batch: Batch, *, is_cut: bool) -> _Survey:
    """One pass without gradients, where the objective or the router needs to see the whole batch first."""
    couples, balances = engine.objective.coupled, engine.router_coef > 0
    if not is_cut or not (couples or balances):
        return _Survey()
    uses: list[ExpertUse] = [ExpertUse.none(engine.scorer.num_experts)]

    def count(indices: list[int]) -> None:
        if balances and indices:
            visits = token_visits([batch.rows[index] for index in indices], batch.labels.shape[1])
            logits, top_k = engine.scorer.router_logits, engine.scorer.experts_per_token
            uses.append(expert_use(logits, visits, top_k=top_k))

    table = score_table(engine.scorer, batch.rows, max_tokens=engine.max_tokens, device=engine.device, after=count)
    experts = _added_use(uses, engine.device) if balances else None
    if not couples:
        return _Survey(experts=experts)
    logps = table.logps.clone().requires_grad_()
    scored = batch.scored(table._replace(logps=logps))
    loss, metrics = engine.objective.loss(scored, batch.totals), engine.objective.metrics(scored)
    (coefficients,) = torch.autograd.grad(loss, logps)
    # Every rank has the whole loss here; each reports its part of it.
    part = Shares(loss.detach() / world_size(), {k: m.divided(world_size()) for k, m in metrics.items()})
    return _Survey(coefficients, (part,), experts)


def _added_use(uses: Sequence[ExpertUse], device: torch.device) -> ExpertUse:
    chosen = torch.stack([use.chosen for use in uses]).sum(0)
    num_rows = torch.stack([use.num_rows for use in uses]).sum()
    return ExpertUse(sum_over_ranks(chosen, device), sum_over_ranks(num_rows, device))


def _router_loss(engine: Engine, experts: ExpertUse | None, visits: Tensor) -> Tensor:
    logits = engine.scorer.router_logits
    use = experts or expert_use(logits, visits, top_k=engine.scorer.experts_per_token)
    return engine.router_coef * balance_loss(logits, visits, use)
