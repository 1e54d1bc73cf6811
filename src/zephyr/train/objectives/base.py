"""What an objective is: a loss tied to its sequences, its share of the global batch, and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import RecipeError
from zephyr.train.objectives.options import Range, option_fields, option_problems
from zephyr.trees.forest import ScoredSequence

Beta = Annotated[float, Range(above=0)]
Weight = Annotated[float, Range(at_least=0)]


class Scored(NamedTuple):
    """What a model made of n examples, C sequences each: every tensor (n, C), one column a sequence.

    ``logps`` sums over scored tokens, differentiable; ``ref_logps`` the reference's, if needed;
    ``num_tokens`` scored tokens; ``mean_logits`` their mean logit; ``labels`` what ``Objective.labels`` gave.
    """

    logps: Tensor
    num_tokens: Tensor
    ref_logps: Tensor | None
    mean_logits: Tensor
    labels: Tensor

    @property
    def reference(self) -> Tensor:
        """The reference's log-probs, which must be there."""
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


class Objective(ABC):
    """Base of the objectives, which are frozen dataclasses of plain options and hold no state.

    ``needs_reference``: ``Scored.ref_logps`` must be given. ``reference_sync_steps``: every so many optimizer
    steps the reference becomes ``reference_mixup`` times the policy plus the rest of itself; None leaves it
    as it is.
    Source of the moving reference: TR-DPO, arXiv 2404.09656 (512 steps, 0.6).
    """

    name: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    reference_sync_steps: int | None = None
    reference_mixup: float = 0.6

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in option_fields(type(self))}
        problems = option_problems(type(self), given) or self.conflicts()
        if problems:
            raise RecipeError(f"objective {self.name}", "; ".join(problems), "mend these options")

    def conflicts(self) -> list[str]:
        """Problems between options, each of which is fine alone."""
        return []

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
    def scores_prompts(self) -> bool:
        """Whether prompt tokens are targets too, so that all tokens of an example may be."""
        return False

    @abstractmethod
    def sequences(self, example: Example) -> list[ScoredSequence]:
        """The sequences to score, one a column; a DataError names an example that does not fit."""

    def labels(self, examples: Sequence[Example]) -> Tensor:
        """What the loss must know beyond log-probs (n, C), float64; zeros unless an objective says more."""
        return torch.zeros(len(examples), len(self.columns), dtype=torch.float64)

    def totals(self, examples: Sequence[Example]) -> Totals:
        """The sizes of the global batch made of these examples."""
        counts = [[int(sequence.scored.sum()) for sequence in self.sequences(one)] for one in examples]
        return Totals(len(examples), tuple(map(sum, zip(*counts, strict=True))))

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        """A scalar: these examples' share of the loss; the parts of a global batch add up to its loss."""
        self._check_whole(scored, totals)
        return self.share(scored, totals)

    def metrics(self, scored: Scored, totals: Totals) -> dict[str, Metric]:
        """What to report of these examples, detached, by the names of the published model cards."""
        self._check_whole(scored, totals)
        return self.measure(scored)

    @abstractmethod
    def share(self, scored: Scored, totals: Totals) -> Tensor:
        """What ``loss`` gives."""

    @abstractmethod
    def measure(self, scored: Scored) -> dict[str, Metric]:
        """What ``metrics`` gives."""

    def _check_whole(self, scored: Scored, totals: Totals) -> None:
        if self.coupled and len(scored.logps) != totals.num_examples:
            raise ValueError(
                f"objective {self.name} couples the {totals.num_examples} examples of the global batch, "
                f"got {len(scored.logps)} of them; give the table of all"
            )
