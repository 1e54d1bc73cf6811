"""Whole rankings: all rated completions of a prompt at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Comparison, Example
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.listwise import plackett_luce
from zephyr.train.objectives.base import Beta, Metric, Objective, Scored, Totals
from zephyr.train.objectives.options import Range
from zephyr.train.objectives.pair_metrics import pair_metrics
from zephyr.trees.forest import ABSENT, ScoredSequence, completion_scored


@dataclass(frozen=True, kw_only=True)
class Listwise(Objective):
    """The mean Plackett-Luce loss of a prompt's 2 to ``num_completions`` ranked completions.

    A prompt with fewer completions leaves its last columns without scored tokens. Metrics compare the best
    completion (chosen) with the worst (rejected). Tied completions stay unordered. With two completions it is
    sigmoid DPO.
    """

    name: ClassVar[str] = "listwise"
    needs_reference: ClassVar[bool] = True

    beta: Beta
    num_completions: Annotated[int, Range(at_least=2, whole=True)]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"rank_{rank}" for rank in range(1, self.num_completions + 1))

    def sequences(self, example: Example) -> list[ScoredSequence]:
        ranked = self._ranked(example)
        present = [completion_scored(ranked.prompt, completion) for completion in ranked.completions]
        return [*present, *[ABSENT] * (self.num_completions - len(present))]

    def labels(self, examples: Sequence[Example]) -> Tensor:
        ratings = [self._ranked(example).ratings for example in examples]
        filled = [(*rated, *[0.0] * (self.num_completions - len(rated))) for rated in ratings]
        return torch.tensor(filled, dtype=torch.float64).reshape(-1, self.num_completions)

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        rewards = self.beta * (scored.logps - scored.reference)
        return plackett_luce(rewards, scored.labels, scored.num_tokens > 0).sum() / totals.num_examples

    def measure(self, scored: Scored) -> dict[str, Metric]:
        worst = (scored.num_tokens > 0).sum(dim=1, keepdim=True) - 1
        ends = torch.cat([torch.zeros_like(worst), worst], dim=1)
        logps = scored.logps.detach().gather(1, ends)
        rewards = self.beta * (logps - scored.reference.gather(1, ends))
        picked = scored._replace(
            num_tokens=scored.num_tokens.gather(1, ends), mean_logits=scored.mean_logits.gather(1, ends)
        )
        return pair_metrics(picked, rewards=rewards, logps=logps)

    def _ranked(self, example: Example) -> Comparison:
        return expect_comparison(example, self.name, 2, self.num_completions)
