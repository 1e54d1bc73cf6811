"""Preference pairs without a reference: SimPO, CPO, ORPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.reference_free import cpo, log_odds, nll, odds_ratio, simpo, simpo_hinge
from zephyr.train.objectives.base import Beta, Metric, Objective, Scored, Totals, Weight
from zephyr.train.objectives.options import Flag, OneOf
from zephyr.train.objectives.pair_metrics import mean, nll_metric, pair_metrics
from zephyr.trees.forest import ScoredSequence, all_scored, completion_scored

SIMPO_LOSSES = {"sigmoid": simpo, "hinge": simpo_hinge}


class ReferenceFree(Objective):
    """What the three share: the columns chosen and rejected, and the mean log-probs a token."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected")

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        return [completion_scored(pair.prompt, completion) for completion in pair.completions]


def _mean_logps(scored: Scored) -> Tensor:
    """The mean log-probs a token (n, 2) of chosen and rejected completions."""
    return scored.logps[:, :2] / scored.num_tokens[:, :2]


@dataclass(frozen=True, kw_only=True)
class Simpo(ReferenceFree):
    """The mean SimPO loss over the global batch, plus ``sft_weight`` times the NLL a chosen token.

    ``gamma_beta_ratio`` is the target margin divided by beta; TRL's ``simpo_gamma`` is the margin itself.
    """

    name: ClassVar[str] = "simpo"

    beta: Beta
    gamma_beta_ratio: Weight
    loss_type: Annotated[str, OneOf(tuple(SIMPO_LOSSES))] = "sigmoid"
    sft_weight: Weight = 0.0

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        chosen, rejected = _mean_logps(scored).unbind(dim=1)
        function = SIMPO_LOSSES[self.loss_type]
        losses = function(chosen, rejected, beta=self.beta, gamma_beta_ratio=self.gamma_beta_ratio)
        added = self.sft_weight * nll(scored.logps[:, 0], totals.num_tokens[0])
        return losses.sum() / totals.num_examples + added

    def measure(self, scored: Scored) -> dict[str, Metric]:
        averages = _mean_logps(scored)
        added = {"nll_loss": nll_metric(scored, 0)} if self.sft_weight else {}
        return pair_metrics(scored, rewards=self.beta * averages, logps=averages) | added


@dataclass(frozen=True, kw_only=True)
class Cpo(ReferenceFree):
    """The mean CPO preference loss over the global batch, plus ``cpo_alpha`` times the NLL a chosen token."""

    name: ClassVar[str] = "cpo"

    beta: Beta
    cpo_alpha: Weight

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        losses = cpo(scored.logps[:, 0], scored.logps[:, 1], beta=self.beta)
        added = self.cpo_alpha * nll(scored.logps[:, 0], totals.num_tokens[0])
        return losses.sum() / totals.num_examples + added

    def measure(self, scored: Scored) -> dict[str, Metric]:
        named = pair_metrics(scored, rewards=self.beta * scored.logps, logps=scored.logps)
        return named | {"nll_loss": nll_metric(scored, 0)}


@dataclass(frozen=True, kw_only=True)
class Orpo(ReferenceFree):
    """NLL a token of the global batch plus ``beta`` (the paper's lambda) times the mean odds-ratio loss.

    ``nll_on_prompt``: the NLL counts prompt and chosen completion, as the authors' code and TRL since 0.8.2
    do; otherwise the completion alone. Log-probs and rewards are reported as means a token.
    """

    name: ClassVar[str] = "orpo"

    beta: Beta
    nll_on_prompt: Annotated[bool, Flag()] = True

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected", "nll") if self.nll_on_prompt else ("chosen", "rejected")

    @property
    def scores_prompts(self) -> bool:
        return self.nll_on_prompt

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = super().sequences(example)
        return [*pair, all_scored(pair[0].ids)] if self.nll_on_prompt else pair

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        column = self._nll_column
        imitation = nll(scored.logps[:, column], totals.num_tokens[column])
        preference = odds_ratio(*_mean_logps(scored).unbind(dim=1)).sum() / totals.num_examples
        return imitation + self.beta * preference

    def measure(self, scored: Scored) -> dict[str, Metric]:
        averages = _mean_logps(scored).detach()
        chosen, rejected = averages.unbind(dim=1)
        return pair_metrics(scored, rewards=self.beta * averages, logps=averages) | {
            "nll_loss": nll_metric(scored, self._nll_column),
            "log_odds_ratio": mean(-odds_ratio(chosen, rejected)),
            "log_odds_chosen": mean(log_odds(chosen, rejected)),
        }

    @property
    def _nll_column(self) -> int:
        return self.columns.index("nll") if self.nll_on_prompt else 0
