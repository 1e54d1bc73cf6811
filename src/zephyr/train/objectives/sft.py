"""Imitation: supervised fine-tuning on dialogues, and continued pretraining where everything is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.train.examples import expect_dialogue
from zephyr.train.losses.reference_free import nll
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals
from zephyr.train.objectives.pair_metrics import nll_metric
from zephyr.trees.forest import ScoredSequence


@dataclass(frozen=True, kw_only=True)
class Sft(Objective):
    """Mean negative log-likelihood of the scored tokens of the global batch."""

    name: ClassVar[str] = "sft"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("dialogue",)

    def sequences(self, example: Example) -> list[ScoredSequence]:
        dialogue = expect_dialogue(example, self.name)
        return [ScoredSequence(dialogue.ids, dialogue.scored)]

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        return nll(scored.logps[:, 0], totals.num_tokens[0])

    def measure(self, scored: Scored) -> dict[str, Metric]:
        # The loss of the step may hold more than this: a mixture of experts adds its load-balancing term.
        return {"nll_loss": nll_metric(scored, 0)}
