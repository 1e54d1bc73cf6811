"""The objective of reward models: two or more rated answers to a prompt, each read at its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Comparison, Example
from zephyr.recipe.objective_section import BradleyTerryObjective
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.reference_free import bradley_terry
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals, mean
from zephyr.trees.forest import ABSENT, ScoredSequence, last_scored


class _Ordered(NamedTuple):
    """All pairs (n, P) of a prompt's answers: the rewards and ratings of both, and how much the pair counts."""

    rewards: tuple[Tensor, Tensor]
    rating_gaps: Tensor
    weights: Tensor


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """The mean Bradley-Terry loss over the global batch. What the scorer gives of a sequence is its reward.

    Of a list of K answers all pairs of different ratings count, each as one of that many, so that a prompt weighs the
    same however many answers it has. A prompt with fewer than ``num_completions`` leaves its last columns empty. The
    two answers of a pair are ordered as they stand, also where their ratings are equal.
    Source: InstructGPT, arXiv 2203.02155, equation 1: all K (K - 1) / 2 comparisons of a prompt in one batch element.
    """

    options: BradleyTerryObjective
    num_completions: int = 2
    name: ClassVar[str] = "bradley_terry"

    @property
    def columns(self) -> tuple[str, ...]:
        more = tuple(f"rank_{rank}" for rank in range(3, self.num_completions + 1))
        return ("chosen", "rejected") if not more else ("rank_1", "rank_2", *more)

    def sequences(self, example: Example) -> list[ScoredSequence]:
        ranked = self._ranked(example)
        present = [last_scored(ranked.prompt, completion) for completion in ranked.completions]
        return [*present, *[ABSENT] * (self.num_completions - len(present))]

    def labels(self, examples: Sequence[Example]) -> Tensor:
        ratings = [self._ranked(example).ratings for example in examples]
        filled = [(*rated, *[0.0] * (self.num_completions - len(rated))) for rated in ratings]
        return torch.tensor(filled, dtype=torch.float64).reshape(-1, self.num_completions)

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        ordered, options = self._ordered(scored), self.options
        losses = bradley_terry(
            *ordered.rewards,
            margin=options.rating_margin * ordered.rating_gaps,
            center_rewards_coefficient=options.center_rewards_coefficient,
        )
        return (ordered.weights * losses).sum() / totals.num_examples

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        (chosen, rejected), _, weights = self._ordered(scored)
        chosen, rejected = chosen.detach(), rejected.detach()
        return {
            "rewards/chosen": mean(chosen, weights),
            "rewards/rejected": mean(rejected, weights),
            "rewards/accuracies": mean((chosen > rejected).to(chosen.dtype), weights),
            "rewards/margins": mean(chosen - rejected, weights),
        }

    def _ordered(self, scored: Scored) -> _Ordered:
        better, worse = map(list, zip(*combinations(range(self.num_completions), 2), strict=True))
        gaps = scored.labels[:, better] - scored.labels[:, worse]
        present = scored.num_tokens > 0
        counts = present[:, better] & present[:, worse]
        is_list = present.sum(dim=1, keepdim=True) > 2
        counts = (counts & ((gaps > 0) | ~is_list)).to(scored.logps.dtype)
        weights = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        return _Ordered((scored.logps[:, better], scored.logps[:, worse]), gaps, weights)

    def _ranked(self, example: Example) -> Comparison:
        return expect_comparison(example, self.name, 2, self.num_completions)
