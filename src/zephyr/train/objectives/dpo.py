"""Preference pairs with a reference: DPO and the losses that share its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Example
from zephyr.train.examples import expect_comparison
from zephyr.train.losses.pairs import PAIR_LOSSES, Pairs, PairSettings
from zephyr.train.losses.ratios import DIVERGENCES, desensitised, divergence_scores
from zephyr.train.losses.reference_free import nll
from zephyr.train.objectives.base import Beta, Metric, Objective, Scored, Totals, Weight
from zephyr.train.objectives.options import OneOf, Range
from zephyr.train.objectives.pair_metrics import nll_metric, pair_metrics
from zephyr.trees.forest import ScoredSequence, completion_scored


@dataclass(frozen=True, kw_only=True)
class Dpo(Objective):
    """The mean of a pair loss over the global batch, plus ``rpo_alpha`` times the NLL a chosen token (RPO).

    An option left at None has the loss's own default, or is off: ``ld_alpha`` weighs the tokens past the
    shared length (LD-DPO), ``bco_delta`` fixes bco_pair's reward shift, ``reference_sync_steps`` moves the
    reference.
    Source of the added NLL: Iterative RPO, arXiv 2404.19733, normalised by tokens as in TRL.
    """

    name: ClassVar[str] = "dpo"
    needs_reference: ClassVar[bool] = True

    beta: Beta
    loss_type: Annotated[str, OneOf(tuple(PAIR_LOSSES))] = "sigmoid"
    label_smoothing: Annotated[float | None, Range(at_least=0, below=0.5)] = None
    discopop_tau: Annotated[float | None, Range(above=0, at_most=1)] = None
    bco_delta: Annotated[float | None, Range()] = None
    f_divergence: Annotated[str | None, OneOf(DIVERGENCES)] = None
    f_alpha: Annotated[float | None, Range()] = None
    ld_alpha: Annotated[float | None, Range(at_least=0, at_most=1)] = None
    rpo_alpha: Weight = 0.0
    reference_sync_steps: Annotated[int | None, Range(at_least=1, whole=True)] = None
    reference_mixup: Annotated[float, Range(above=0, at_most=1)] = 0.6

    def conflicts(self) -> list[str]:
        belonging = PAIR_LOSSES[self.loss_type].options
        of_losses = sorted({option for loss in PAIR_LOSSES.values() for option in loss.options})
        foreign = [
            f"{option} does not belong to loss_type {self.loss_type}, got {getattr(self, option)!r}"
            for option in of_losses
            if option not in belonging and getattr(self, option) is not None
        ]
        if self.loss_type == "exo_pair" and self.label_smoothing == 0:
            foreign.append("label_smoothing must be above 0 for loss_type exo_pair, got 0")
        if (self.f_divergence == "alpha_divergence") != (self.f_alpha is not None):
            foreign.append(
                f"f_alpha and f_divergence alpha_divergence need each other, got {self.f_alpha!r} "
                f"and {self.f_divergence!r}"
            )
        return foreign

    @property
    def columns(self) -> tuple[str, ...]:
        pair = ("chosen", "rejected")
        return pair if self.ld_alpha is None else (*pair, "chosen_head", "rejected_head")

    @property
    def coupled(self) -> bool:
        return PAIR_LOSSES[self.loss_type].coupled and self.bco_delta is None

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        shared = min(map(len, pair.completions))
        heads = [] if self.ld_alpha is None else [completion[:shared] for completion in pair.completions]
        return [completion_scored(pair.prompt, completion) for completion in (*pair.completions, *heads)]

    def share(self, scored: Scored, totals: Totals) -> Tensor:
        losses = PAIR_LOSSES[self.loss_type].function(self._pairs(scored), self._settings())
        loss = losses.sum() / totals.num_examples
        if self.rpo_alpha:
            loss = loss + self.rpo_alpha * nll(scored.logps[:, 0], totals.num_tokens[0])
        return loss

    def measure(self, scored: Scored) -> dict[str, Metric]:
        logps = self._desensitised(scored.logps.detach())
        rewards = self.beta * (logps - self._desensitised(scored.reference))
        added = {"nll_loss": nll_metric(scored, 0)} if self.rpo_alpha else {}
        return pair_metrics(scored, rewards=rewards, logps=logps) | added

    def _settings(self) -> PairSettings:
        smoothing, tau = self.label_smoothing, self.discopop_tau
        return PairSettings(
            beta=self.beta,
            label_smoothing=PAIR_LOSSES[self.loss_type].label_smoothing if smoothing is None else smoothing,
            discopop_tau=PairSettings(self.beta).discopop_tau if tau is None else tau,
            bco_delta=self.bco_delta,
        )

    def _desensitised(self, logps: Tensor) -> Tensor:
        """The log-probs (n, 2) of chosen and rejected that the loss compares."""
        return logps if self.ld_alpha is None else desensitised(logps[:, :2], logps[:, 2:], self.ld_alpha)

    def _pairs(self, scored: Scored) -> Pairs:
        policy, reference = self._desensitised(scored.logps), self._desensitised(scored.reference)
        if PAIR_LOSSES[self.loss_type].averaged:
            num_tokens = scored.num_tokens[:, :2]
            policy, reference = policy / num_tokens, reference / num_tokens
        if self.f_divergence is not None:
            # A loss that asks for margins alone is given f' of the ratios as if they were ratios.
            policy = divergence_scores(policy - reference, self.f_divergence, self.f_alpha)
            reference = torch.zeros_like(policy)
        return Pairs(*policy.unbind(dim=1), *reference.unbind(dim=1))
