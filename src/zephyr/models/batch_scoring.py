"""Scores of many examples as tables with a row an example and a column a sequence.

The one way to score without gradients: the reference's log-probs, every evaluation, and the first pass of an
objective that couples its examples all go through ``score_table``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from zephyr.models.collectives import is_distributed, rank, world_size
from zephyr.models.scorer import ForestScorer
from zephyr.trees.attention import prepare_attention
from zephyr.trees.budget import cut_micro_batches
from zephyr.trees.forest import ABSENT, Forest, ScoredSequence, build_forest, num_unique_tokens, sent
from zephyr.trees.score import SequenceScores

# What one example scores: its sequences, a column each.
ScoredRow = Sequence[ScoredSequence]


class ScoreTable(NamedTuple):
    """``logps`` (n, C) float64, ``num_tokens`` (n, C) int64, ``mean_logits`` (n, C); absent sequences are 0.

    ``collisions`` (n, C) as in SequenceScores, if asked.
    """

    logps: Tensor
    num_tokens: Tensor
    mean_logits: Tensor
    collisions: Tensor | None = None

    def rows(self, indices: Sequence[int]) -> ScoreTable:
        """The rows ``indices``."""
        chosen = sent(torch.tensor(indices, dtype=torch.int64), self.logps.device)
        logps, num_tokens, mean_logits = (column.index_select(0, chosen) for column in self[:3])
        collisions = None if self.collisions is None else self.collisions.index_select(0, chosen)
        return ScoreTable(logps, num_tokens, mean_logits, collisions)


def forest_of(rows: Sequence[ScoredRow], num_columns: int) -> Forest:
    """One forest of all the rows' sequences; short rows are filled with absent sequences."""
    return build_forest([s for row in rows for s in [*row, *[ABSENT] * (num_columns - len(row))]])


def token_visits(rows: Sequence[ScoredRow], num_columns: int) -> Tensor:
    """(T,) float64: in how many sequences each token of ``forest_of`` would be computed if nothing were shared.

    Within a row, a sequence that repeats another or begins it is no computation of its own.
    """
    forest = forest_of(rows, num_columns)
    reach, ends = forest.reach.numpy(), np.zeros(forest.num_tokens)
    for of_row in forest.last.numpy().reshape(-1, num_columns):
        distinct = {int(last) for last in of_row if last >= 0}
        for last in distinct:
            if not any(last < other < reach[last] for other in distinct):
                ends[last] += 1
    # A token is visited by the sequences that end in the subtree under it.
    before = np.concatenate([[0.0], ends.cumsum()])
    return torch.from_numpy(before[reach] - before[:-1])


def as_table(scores: SequenceScores, num_columns: int) -> ScoreTable:
    """The scores of ``forest_of`` as a table."""
    columns = (scores.logps, scores.num_tokens, scores.mean_logits)
    logps, num_tokens, mean_logits = (column.view(-1, num_columns) for column in columns)
    collisions = None if scores.collisions is None else scores.collisions.view(-1, num_columns)
    return ScoreTable(logps, num_tokens, mean_logits, collisions)


def unique_tokens(rows: Sequence[ScoredRow]) -> list[int]:
    """How many unique tokens each row holds: what it costs in a micro-batch."""
    return [num_unique_tokens(row) for row in rows]


def my_micro_batches(sizes: Sequence[int], *, max_tokens: int, names: Sequence[str] | None = None) -> list[list[int]]:
    """The micro-batches of this rank, as lists of indices into rows of so many unique tokens.

    Every rank has the same number of them.
    """
    return cut_micro_batches(sizes, max_tokens=max_tokens, world_size=world_size(), names=names)[rank()]


def score_table(
    scorer: ForestScorer,
    rows: Sequence[ScoredRow],
    *,
    max_tokens: int,
    device: torch.device,
    sizes: Sequence[int] | None = None,
    after: Callable[[list[int]], None] | None = None,
    with_collisions: bool = False,
) -> ScoreTable:
    """The scores of every row without gradients, computed by all ranks together and known to each, on the CPU.

    ``sizes``: the rows' unique tokens, where they are known. ``after`` is called behind each of this rank's
    micro-batches with its indices.
    """
    num_columns = max((len(row) for row in rows), default=1)
    exact = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not know
    scored: list[int] = []
    parts: list[Tensor] = []
    for indices in my_micro_batches(sizes or unique_tokens(rows), max_tokens=max_tokens):
        with frozen(scorer):
            here = [rows[index] for index in indices]
            scores = score_rows(scorer, here, num_columns, device, with_collisions=with_collisions)
            if indices:
                scored += indices
                parts.append(torch.stack([column.to(exact) for column in scores if column is not None]))
        if after is not None:
            after(indices)
    table = torch.zeros(4 if with_collisions else 3, len(rows), num_columns, dtype=torch.float64)
    if parts:  # in one copy: each waits until a GPU has done what it was given
        table[:, scored] = torch.cat(parts, 1).cpu().double()
    total = sum_over_ranks(table, device)
    return ScoreTable(total[0], total[1].long(), total[2], total[3] if with_collisions else None)


def device_of(scorer: object) -> torch.device:
    """Where a scorer computes; the CPU for a plain function."""
    return next(scorer.parameters()).device if isinstance(scorer, nn.Module) else torch.device("cpu")


@contextmanager
def frozen(scorer: object) -> Iterator[None]:
    """No gradients inside the block, and a module in eval mode (in training a router may add noise)."""
    modules = list(scorer.modules()) if isinstance(scorer, nn.Module) else []
    was_training = [module.training for module in modules]
    # FSDP2 keeps the buffers it gathers into; made in inference mode, they break training (torch 2.13).
    parameters = scorer.parameters() if isinstance(scorer, nn.Module) else ()
    is_sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
    for module in modules:
        module.training = False
    try:
        with torch.no_grad() if is_sharded else torch.inference_mode():
            yield
    finally:
        for module, training in zip(modules, was_training, strict=True):
            module.training = training
        if isinstance(scorer, nn.Module):
            reshard(scorer)


def reshard(scorer: nn.Module) -> None:
    """Free the whole weights that a forward without a backward has left gathered."""
    if isinstance(scorer, FSDPModule):
        scorer.reshard()


@contextmanager
def runs_alone(scorer: nn.Module) -> Iterator[None]:
    """Inside, the scorer's model can be run by itself without gradients, to sample from it.

    A sharded model needs its forward passes on every rank: all must generate the same texts, with one seed.
    """
    if isinstance(scorer, FSDPModule):
        scorer.unshard()
    try:
        with torch.no_grad():
            yield
    finally:
        reshard(scorer)


def score_rows(
    scorer: ForestScorer,
    rows: Sequence[ScoredRow],
    num_columns: int,
    device: torch.device,
    *,
    with_collisions: bool = False,
) -> ScoreTable:
    """The scores of a micro-batch of rows, of which there may be none, in one forest."""
    forest = laid_out(rows, num_columns, device)
    return score_forest(scorer, forest, num_columns, with_collisions=with_collisions)


def laid_out(rows: Sequence[ScoredRow], num_columns: int, device: torch.device) -> Forest:
    """The forest of a micro-batch on the device, with what attention there will derive of it."""
    forest = forest_of(rows, num_columns).to(device)
    prepare_attention(forest, device)
    return forest


def score_forest(scorer: ForestScorer, forest: Forest, num_columns: int, *, with_collisions: bool) -> ScoreTable:
    """The scores of a forest of rows as a table."""
    return as_table(scorer(forest, with_entropy=True) if with_collisions else scorer(forest), num_columns)


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """The elementwise sum of a tensor, of the same shape on all ranks, over them, where it was; it is used up."""
    if not is_distributed():
        return values
    moved = values.to(device)
    dist.all_reduce(moved)
    return moved.to(values.device)
