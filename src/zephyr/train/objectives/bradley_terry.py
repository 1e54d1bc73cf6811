"""The objective of reward models: pairs of answers, each read at its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.recipe.objective_section import BradleyTerryObjective
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.reference_free import bradley_terry
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals, pair_metrics
from zephyr.trees.forest import ScoredSequence, last_scored


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """The mean Bradley-Terry loss over the global batch. What the scorer gives of a sequence is its reward."""

    options: BradleyTerryObjective
    name: ClassVar[str] = "bradley_terry"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected")

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        return [last_scored(pair.prompt, completion) for completion in pair.completions]

    def labels(self, examples: Sequence[Example]) -> Tensor:
        ratings = [expect_comparison(example, self.name, 2, 2).ratings for example in examples]
        return torch.tensor(ratings, dtype=torch.float64).reshape(-1, 2)

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        (chosen, rejected), options = scored.logps.unbind(dim=1), self.options
        margin = options.rating_margin * (scored.labels[:, 0] - scored.labels[:, 1])
        coefficient = options.center_rewards_coefficient
        losses = bradley_terry(chosen, rejected, margin=margin, center_rewards_coefficient=coefficient)
        return losses.sum() / totals.num_examples

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        named = pair_metrics(scored, rewards=scored.logps, logps=scored.logps)
        return {name: named[name] for name in self.options.metrics}
