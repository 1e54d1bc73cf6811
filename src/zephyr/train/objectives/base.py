"""What an objective is: a loss tied to its sequences, its share of the global batch, and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.recipe.objective_section import PreferenceObjective, SftObjective
from zephyr.trees.forest import ScoredSequence


class Scored(NamedTuple):
    """What a model made of n examples, C sequences each: every tensor (n, C), one column a sequence.

    ``logps`` sums over scored tokens, differentiable; ``ref_logps`` the reference's, if needed;
    ``num_tokens`` scored tokens; ``mean_logits`` their mean logit; ``labels`` what ``Objective.labels`` gave;
    ``collisions`` the sums of log sum_v p_v^2 over the vocabulary, if the objective weighs by the policy.
    """

    logps: Tensor
    num_tokens: Tensor
    ref_logps: Tensor | None
    mean_logits: Tensor
    labels: Tensor
    collisions: Tensor | None = None

    @property
    def reference(self) -> Tensor:
        """The reference's log-probs (n, C). Raises ValueError if they were not given."""
        if self.ref_logps is None:
            raise ValueError("this objective compares with a reference: ref_logps must not be None")
        return self.ref_logps


class Totals(NamedTuple):
    """Sizes of the global batch of one optimizer step; ``num_tokens`` are scored ones, column by column."""

    num_examples: int
    num_tokens: tuple[int, ...]


class Metric(NamedTuple):
    """A mean in two scalars, to be summed over micro-batches, ranks and steps and divided at the end.

    A weight of 0 means that nothing was there to measure.
    """

    total: Tensor
    weight: Tensor

    def divided(self, parts: int) -> Metric:
        """One of ``parts`` equal shares: for each of that many ranks, where all of them hold the whole."""
        return Metric(self.total / parts, self.weight / parts)


@dataclass(frozen=True)
class Objective(ABC):
    """Base of the objectives, which hold their section of the recipe and no state."""

    options: SftObjective | PreferenceObjective
    name: ClassVar[str]

    @property
    def needs_reference(self) -> bool:
        """Whether ``Scored.ref_logps`` must be given."""
        return self.options.needs_reference

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """A name for each of the C sequences of an example."""

    @property
    def coupled(self) -> bool:
        """Whether one example's loss depends on the other examples of the global batch.

        Then ``loss`` and ``metrics`` take the table of the whole global batch; otherwise any part of it.
        """
        return False

    @property
    def weighs_by_policy(self) -> bool:
        """Whether an example's loss is weighted by how likely the policy is to write it."""
        return False

    @property
    def scores_everything(self) -> bool:
        """Whether prompt tokens are targets too, so that all tokens of an example may be."""
        return False

    @abstractmethod
    def sequences(self, example: Example) -> list[ScoredSequence]:
        """The sequences to score, one a column. Raises DataError naming an example that does not fit."""

    def arranged(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples as ``sequences`` wants them; called once for all. Raises DataError if that cannot be."""
        return examples

    def labels(self, examples: Sequence[Example]) -> Tensor:
        """What the loss must know beyond log-probs (n, C), float64; zeros unless an objective says more."""
        return torch.zeros(len(examples), len(self.columns), dtype=torch.float64)

    def totals(self, examples: Sequence[Example]) -> Totals:
        """The sizes of the global batch made of these examples."""
        counts = [[int(sequence.scored.sum()) for sequence in self.sequences(one)] for one in examples]
        return Totals(len(examples), tuple(map(sum, zip(*counts, strict=True))))

    @abstractmethod
    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        """A scalar: these examples' share of the loss; the shares of a global batch add up to its loss.

        A coupled objective raises ValueError for a part of the global batch.
        """

    @abstractmethod
    def metrics(self, scored: Scored) -> dict[str, Metric]:
        """What to report of these examples, detached, by the names of the published model cards."""

    def check_whole(self, scored: Scored, totals: Totals) -> None:
        """Check that a coupled objective is given the whole global batch. Raises ValueError."""
        if self.coupled and len(scored.logps) != totals.num_examples:
            raise ValueError(
                f"objective {self.name} couples all {totals.num_examples} examples of the global batch, "
                f"got {len(scored.logps)} of them; pass the log-probs of all"
            )


def mean(values: Tensor, weights: Tensor | None = None) -> Metric:
    """The metric that averages values (n,), each counted once or ``weights`` (n,) times."""
    values = values.detach()
    if weights is None:
        # Filled on the device: the host would wait for a number that is copied there.
        return Metric(values.sum(), values.new_full((), float(values.numel())))
    return Metric((values * weights).sum(), weights.sum().to(values.dtype))


def pair_metrics(scored: Scored, *, rewards: Tensor, logps: Tensor) -> dict[str, Metric]:
    """Rewards, log-probs and logits of columns 0 (chosen) and 1 (rejected); ``rewards``, ``logps`` (n, 2).

    Accuracies count strictly greater rewards, so ties are misses. Logits are means over all scored tokens.
    """
    chosen, rejected = rewards.detach().unbind(dim=1)
    return {
        "rewards/chosen": mean(chosen),
        "rewards/rejected": mean(rejected),
        "rewards/accuracies": mean((chosen > rejected).to(chosen.dtype)),
        "rewards/margins": mean(chosen - rejected),
        "logps/chosen": mean(logps[:, 0]),
        "logps/rejected": mean(logps[:, 1]),
        "logits/chosen": mean(scored.mean_logits[:, 0], scored.num_tokens[:, 0]),
        "logits/rejected": mean(scored.mean_logits[:, 1], scored.num_tokens[:, 1]),
    }


def nll_metric(scored: Scored, column: int) -> Metric:
    """Mean negative log-likelihood a token of one column."""
    logps = scored.logps[:, column].detach()
    return Metric(-logps.sum(), scored.num_tokens[:, column].sum().to(logps.dtype))
