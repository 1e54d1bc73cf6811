"""Unpaired feedback: single completions labelled desirable or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Comparison, Example
from zephyr.errors import DataError
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.kto import kl_estimate, kto
from zephyr.train.objectives.base import Beta, Metric, Objective, Scored, Totals, Weight
from zephyr.train.objectives.pair_metrics import mean
from zephyr.trees.forest import ScoredSequence, completion_scored


@dataclass(frozen=True, kw_only=True)
class Kto(Objective):
    """The weighted mean KTO loss over the global batch, with its KL term estimated on mismatched completions.

    Its examples come from ``with_mismatched_completions``: the rated completion first, then another prompt's
    one. The KL column is averaged over the global batch and carries no gradient.
    """

    name: ClassVar[str] = "kto"
    needs_reference: ClassVar[bool] = True

    beta: Beta
    desirable_weight: Weight = 1.0
    undesirable_weight: Weight = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("completion", "mismatched")

    @property
    def coupled(self) -> bool:
        return True

    def sequences(self, example: Example) -> list[ScoredSequence]:
        rated = self._rated(example)
        return [completion_scored(rated.prompt, completion) for completion in rated.completions]

    def labels(self, examples: Sequence[Example]) -> Tensor:
        ratings = [self._rated(example).ratings for example in examples]
        return torch.tensor(ratings, dtype=torch.float64).reshape(-1, 2)

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        ratios = scored.logps - scored.reference
        desirable = scored.labels[:, 0] == 1
        losses = kto(ratios[:, 0], kl_estimate(ratios[:, 1]), desirable, self.beta)
        weighted = torch.where(desirable, self.desirable_weight * losses, self.undesirable_weight * losses)
        return weighted.sum() / totals.num_examples

    def measure(self, scored: Scored) -> dict[str, Metric]:
        ratios = (scored.logps - scored.reference).detach()
        desirable = (scored.labels[:, 0] == 1).to(ratios.dtype)
        named = {"kl": mean(kl_estimate(ratios[:, 1]))}
        for half, weight in (("chosen", desirable), ("rejected", 1 - desirable)):
            named[f"rewards/{half}"] = mean(self.beta * ratios[:, 0], weight)
            named[f"logps/{half}"] = mean(scored.logps[:, 0], weight)
            named[f"logits/{half}"] = mean(scored.mean_logits[:, 0], weight * scored.num_tokens[:, 0])
        return named | {"rewards/margins": _difference(named["rewards/chosen"], named["rewards/rejected"])}

    def _rated(self, example: Example) -> Comparison:
        rated = expect_comparison(example, self.name, 2, 2)
        if rated.ratings[0] not in (0.0, 1.0):
            raise DataError(
                rated.name,
                f"objective kto needs a rating of 1 (desirable) or 0 (undesirable), got {rated.ratings[0]}",
                "map the ratings to 1 and 0",
            )
        return rated


def _difference(first: Metric, second: Metric) -> Metric:
    """The difference of two means, counted once; nothing to measure where one of them has nothing."""
    both = ((first.weight > 0) & (second.weight > 0)).to(first.total.dtype)
    means = [metric.total / metric.weight.clamp(min=1) for metric in (first, second)]
    return Metric((means[0] - means[1]) * both, both)
