"""The objectives without a reference, each with its section as options: SimPO, CPO, TPO, ORPO, best of n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.recipe.objective_section import BestOfNObjective, CpoObjective, OrpoObjective, SimpoObjective, TpoObjective
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.reference_free import cpo, log_odds, nll, odds_ratio, shaped, simpo
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals, mean, nll_metric, pair_metrics
from zephyr.trees.forest import ScoredSequence, all_scored, completion_scored


@dataclass(frozen=True)
class _ReferenceFree(Objective):
    """What SimPO, CPO and ORPO share: the columns chosen and rejected."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected")

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        return [completion_scored(pair.prompt, completion) for completion in pair.completions]


def _mean_logps(scored: Scored) -> Tensor:
    """The mean log-probs a token (n, 2) of chosen and rejected completions."""
    return scored.logps[:, :2] / scored.num_tokens[:, :2]


@dataclass(frozen=True)
class Simpo(_ReferenceFree):
    """The mean SimPO loss over the global batch, plus ``sft_weight`` times the NLL a chosen token.

    ``gamma_beta_ratio`` is the target margin divided by beta; TRL's ``simpo_gamma`` is the margin itself.
    """

    options: SimpoObjective
    name: ClassVar[str] = "simpo"

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        options, (chosen, rejected) = self.options, shaped(_mean_logps(scored), self.options.alpha).unbind(dim=1)
        losses = simpo(
            chosen,
            rejected,
            beta=options.beta,
            gamma_beta_ratio=options.gamma_beta_ratio,
            loss_type=options.loss_type,
            label_smoothing=options.label_smoothing,
        )
        added = options.sft_weight * nll(scored.logps[:, 0], totals.num_tokens[0])
        return losses.sum() / totals.num_examples + added

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        averages = _mean_logps(scored)
        added = {"nll_loss": nll_metric(scored, 0)} if self.options.sft_weight else {}
        rewards = self.options.beta * shaped(averages, self.options.alpha)
        return pair_metrics(scored, rewards=rewards, logps=averages) | added


@dataclass(frozen=True)
class Cpo(_ReferenceFree):
    """The mean CPO preference loss over the global batch, plus ``cpo_alpha`` times the NLL a chosen token."""

    options: CpoObjective
    name: ClassVar[str] = "cpo"

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        options, (chosen, rejected) = self.options, self._rewards(scored).unbind(dim=1)
        smoothing = options.label_smoothing
        losses = cpo(chosen, rejected, beta=options.beta, loss_type=options.loss_type, label_smoothing=smoothing)
        added = options.cpo_alpha * nll(scored.logps[:, 0], totals.num_tokens[0])
        return losses.sum() / totals.num_examples + added

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        named = pair_metrics(scored, rewards=self.options.beta * self._rewards(scored), logps=self._logps(scored))
        return named | {"nll_loss": nll_metric(scored, 0)}

    def _logps(self, scored: Scored) -> Tensor:
        return _mean_logps(scored) if self.options.loss_type == "ipo" else scored.logps

    def _rewards(self, scored: Scored) -> Tensor:
        """What the loss compares (n, 2)."""
        return shaped(self._logps(scored), self.options.alpha)


@dataclass(frozen=True)
class Tpo(Objective):
    """The mean loss on the second and the last rated answer, plus ``tpo_alpha`` times the NLL a token of the best.

    Source: TPO, arXiv 2405.16681, equation 9, and TPO-L; the losses as in TRL's TPOTrainer.
    """

    options: TpoObjective
    name: ClassVar[str] = "tpo"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected", "best")

    def sequences(self, example: Example) -> list[ScoredSequence]:
        ranked = expect_comparison(example, self.name, self.options.fewest_completions, None)
        best, chosen, *_, rejected = ranked.completions
        return [completion_scored(ranked.prompt, completion) for completion in (chosen, rejected, best)]

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        options, (chosen, rejected) = self.options, self._logps(scored).unbind(dim=1)
        if options.loss_type == "tpo_l":
            chosen = chosen - options.tpo_l_gamma / options.beta
        loss_type = "sigmoid" if options.loss_type == "tpo_l" else options.loss_type
        smoothing = options.label_smoothing
        losses = cpo(chosen, rejected, beta=options.beta, loss_type=loss_type, label_smoothing=smoothing)
        added = options.tpo_alpha * nll(scored.logps[:, 2], totals.num_tokens[2])
        return losses.sum() / totals.num_examples + added

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        logps = self._logps(scored)
        named = pair_metrics(scored, rewards=self.options.beta * logps, logps=logps)
        return named | {"nll_loss": nll_metric(scored, 2)}

    def _logps(self, scored: Scored) -> Tensor:
        """What the loss compares (n, 2)."""
        return _mean_logps(scored) if self.options.loss_type in ("ipo", "tpo_l") else scored.logps[:, :2]


@dataclass(frozen=True)
class Orpo(_ReferenceFree):
    """NLL a token of the global batch plus ``beta`` (the paper's lambda) times the mean odds-ratio loss.

    Log-probs and rewards are reported as means a token.
    """

    options: OrpoObjective
    name: ClassVar[str] = "orpo"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chosen", "rejected", "nll") if self.options.nll_on_prompt else ("chosen", "rejected")

    @property
    def scores_everything(self) -> bool:
        return self.options.nll_on_prompt

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = super().sequences(example)
        return [*pair, all_scored(pair[0].ids)] if self.options.nll_on_prompt else pair

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        column = self._nll_column
        imitation = nll(scored.logps[:, column], totals.num_tokens[column])
        preference = odds_ratio(*_mean_logps(scored).unbind(dim=1)).sum() / totals.num_examples
        return imitation + self.options.beta * preference

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        averages = _mean_logps(scored).detach()
        chosen, rejected = averages.unbind(dim=1)
        return pair_metrics(scored, rewards=self.options.beta * averages, logps=averages) | {
            "nll_loss": nll_metric(scored, self._nll_column),
            "log_odds_ratio": mean(-odds_ratio(chosen, rejected)),
            "log_odds_chosen": mean(log_odds(chosen, rejected)),
        }

    @property
    def _nll_column(self) -> int:
        return self.columns.index("nll") if self.options.nll_on_prompt else 0


@dataclass(frozen=True)
class BestOfN(Objective):
    """The NLL a token of the best-rated completions of the global batch; the others of a prompt are not scored."""

    options: BestOfNObjective
    name: ClassVar[str] = "best_of_n"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("best",)

    def sequences(self, example: Example) -> list[ScoredSequence]:
        rated = expect_comparison(example, self.name, self.options.fewest_completions, None)
        return [completion_scored(rated.prompt, rated.completions[0])]

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        return nll(scored.logps[:, 0], totals.num_tokens[0])

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        return {"nll_loss": nll_metric(scored, 0)}
