"""The objectives, each with its section of the recipe as options, and the table that names them.

To add one: its section in ``zephyr.recipe.objective_section``, and here a class and a row in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.errors import DataError
from zephyr.recipe.objective_section import (
    AlignObjective,
    BradleyTerryObjective,
    CustomObjective,
    DpoObjective,
    KtoObjective,
    ListwiseObjective,
    PairLossName,
    SftObjective,
)
from zephyr.train.examples import expect_comparison, expect_dialogue, with_mismatched_completions
from zephyr.train.losses.kto import apo_zero_unpaired, kl_estimate, kto
from zephyr.train.losses.pairs import PAIR_LOSSES, Pairs, desensitised, divergence_scores, plackett_luce
from zephyr.train.losses.reference_free import nll
from zephyr.train.objectives.base import Metric, Objective, Scored, Totals, mean, nll_metric, pair_metrics
from zephyr.train.objectives.bradley_terry import BradleyTerry
from zephyr.train.objectives.custom import Custom, load_loss
from zephyr.train.objectives.reference_free import BestOfN, Cpo, Orpo, Simpo, Tpo
from zephyr.trees.forest import ABSENT, ScoredSequence, completion_scored


@dataclass(frozen=True)
class Sft(Objective):
    """Imitation of dialogues or plain text: mean negative log-likelihood of the batch's scored tokens."""

    options: SftObjective
    name: ClassVar[str] = "sft"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("dialogue",)

    @property
    def scores_everything(self) -> bool:
        return self.options.loss_on == "everything"

    def sequences(self, example: Example) -> list[ScoredSequence]:
        dialogue = expect_dialogue(example, self.name)
        return [ScoredSequence(dialogue.ids, dialogue.scored)]

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        return nll(scored.logps[:, 0], totals.num_tokens[0])

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        # The loss of the step may hold more than this: a mixture of experts adds its load-balancing term.
        return {"nll_loss": nll_metric(scored, 0)}


@dataclass(frozen=True)
class Dpo(Objective):
    """The mean of a pair loss over the global batch, plus ``rpo_alpha`` times the NLL a chosen token (RPO).

    Source of the added NLL: Iterative RPO, arXiv 2404.19733, normalised by tokens as in TRL.
    """

    options: DpoObjective
    name: ClassVar[str] = "dpo"

    @property
    def columns(self) -> tuple[str, ...]:
        pair = ("chosen", "rejected")
        return pair if self.options.ld_alpha is None else (*pair, "chosen_head", "rejected_head")

    @property
    def coupled(self) -> bool:
        return any(PAIR_LOSSES[name].coupled and not self._has_given_shift(name) for name in self.options.loss_weights)

    @property
    def weighs_by_policy(self) -> bool:
        return self.options.use_weighting

    def sequences(self, example: Example) -> list[ScoredSequence]:
        pair = expect_comparison(example, self.name, 2, 2)
        shared = min(map(len, pair.completions))
        heads = [] if self.options.ld_alpha is None else [completion[:shared] for completion in pair.completions]
        return [completion_scored(pair.prompt, completion) for completion in (*pair.completions, *heads)]

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        self.check_whole(scored, totals)
        loss, of_pair = scored.logps.new_zeros(()), self._weights(scored)
        for name, weight in self.options.loss_weights.items():
            pair_loss = PAIR_LOSSES[name]
            losses = pair_loss.function(self._pairs(scored, averaged=pair_loss.averaged), self.options)
            loss = loss + weight * (of_pair * losses).sum() / totals.num_examples
        if self.options.rpo_alpha:
            loss = loss + self.options.rpo_alpha * nll(scored.logps[:, 0], totals.num_tokens[0])
        return loss

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        logps = self._desensitised(scored.logps.detach())
        rewards = self.options.beta * (logps - self._desensitised(scored.reference))
        added = {"nll_loss": nll_metric(scored, 0)} if self.options.rpo_alpha else {}
        return pair_metrics(scored, rewards=rewards, logps=logps) | added

    def _desensitised(self, logps: Tensor) -> Tensor:
        """The log-probs (n, 2) of chosen and rejected that the loss compares."""
        alpha = self.options.ld_alpha
        return logps if alpha is None else desensitised(logps[:, :2], logps[:, 2:], alpha)

    def _weights(self, scored: Scored) -> Tensor:
        """How much each pair (n,) counts, without gradient.

        Source: WPO, arXiv 2406.11827, equation 2 with the alignment of its equation 4, as TRL has it.
        """
        if not self.options.use_weighting:
            return scored.logps.new_ones(len(scored.logps))
        assert scored.collisions is not None, "an objective that weighs by the policy is given them"
        aligned = scored.logps.detach() - scored.collisions
        return (aligned[:, :2] / scored.num_tokens[:, :2]).sum(dim=1).exp()

    def _has_given_shift(self, name: PairLossName) -> bool:
        return name == "bco_pair" and self.options.bco_delta is not None

    def _pairs(self, scored: Scored, *, averaged: bool) -> Pairs:
        policy, reference = self._desensitised(scored.logps), self._desensitised(scored.reference)
        if self.options.f_divergence is not None:
            # A loss that asks for margins alone is given f' of the ratios as if they were ratios.
            policy = divergence_scores(policy - reference, self.options.f_divergence, self.options.f_alpha)
            reference = torch.zeros_like(policy)
        if averaged:
            num_tokens = scored.num_tokens[:, :2]
            policy, reference = policy / num_tokens, reference / num_tokens
        return Pairs(*policy.unbind(dim=1), *reference.unbind(dim=1))


@dataclass(frozen=True)
class Kto(Objective):
    """The weighted mean KTO loss over the global batch, with its KL term estimated on mismatched completions.

    Its arranged examples hold the rated completion first, then another prompt's one. The KL column is averaged over
    the global batch and carries no gradient. ``apo_zero_unpaired`` has neither.
    """

    options: KtoObjective
    name: ClassVar[str] = "kto"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("completion", "mismatched") if self.options.has_kl else ("completion",)

    def arranged(self, examples: Sequence[Example]) -> Sequence[Example]:
        rated = [expect_comparison(example, self.name, 1, 1) for example in examples]
        return with_mismatched_completions(rated) if rated and self.options.has_kl else rated

    @property
    def coupled(self) -> bool:
        return self.options.has_kl

    def sequences(self, example: Example) -> list[ScoredSequence]:
        rated = self._rated(example)
        return [completion_scored(rated.prompt, completion) for completion in rated.completions]

    def labels(self, examples: Sequence[Example]) -> Tensor:
        ratings = [self._rated(example).ratings for example in examples]
        return torch.tensor(ratings, dtype=torch.float64).reshape(-1, len(self.columns))

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        self.check_whole(scored, totals)
        ratios, options = scored.logps - scored.reference, self.options
        desirable = scored.labels[:, 0] == 1
        if options.has_kl:
            losses = kto(ratios[:, 0], kl_estimate(ratios[:, 1]), desirable, options.beta)
        else:
            losses = apo_zero_unpaired(ratios[:, 0], desirable, options.beta)
        weighted = torch.where(desirable, options.desirable_weight * losses, options.undesirable_weight * losses)
        return weighted.sum() / totals.num_examples

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        ratios = (scored.logps - scored.reference).detach()
        desirable = (scored.labels[:, 0] == 1).to(ratios.dtype)
        named = {"kl": mean(kl_estimate(ratios[:, 1]))} if self.options.has_kl else {}
        for half, weight in (("chosen", desirable), ("rejected", 1 - desirable)):
            named[f"rewards/{half}"] = mean(self.options.beta * ratios[:, 0], weight)
            named[f"logps/{half}"] = mean(scored.logps[:, 0], weight)
            named[f"logits/{half}"] = mean(scored.mean_logits[:, 0], weight * scored.num_tokens[:, 0])
        return named | {"rewards/margins": _difference(named["rewards/chosen"], named["rewards/rejected"])}

    def _rated(self, example: Example) -> Comparison:
        rated = expect_comparison(example, self.name, len(self.columns), len(self.columns))
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


@dataclass(frozen=True)
class Listwise(Objective):
    """The mean Plackett-Luce loss of a prompt's 2 to ``num_completions`` ranked completions.

    A prompt with fewer completions leaves its last columns without scored tokens. Metrics compare the best
    completion (chosen) with the worst (rejected). Tied completions stay unordered. With two completions it is
    sigmoid DPO.
    """

    options: ListwiseObjective
    name: ClassVar[str] = "listwise"

    @property
    def num_completions(self) -> int:
        """The number of columns."""
        assert self.options.num_completions is not None, "build_objective puts the data's number in its place"
        return self.options.num_completions

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

    def loss(self, scored: Scored, totals: Totals) -> Tensor:
        rewards = self.options.beta * (scored.logps - scored.reference)
        return plackett_luce(rewards, scored.labels, scored.num_tokens > 0).sum() / totals.num_examples

    def metrics(self, scored: Scored) -> dict[str, Metric]:
        worst = (scored.num_tokens > 0).sum(dim=1, keepdim=True) - 1
        ends = torch.cat([torch.zeros_like(worst), worst], dim=1)
        logps = scored.logps.detach().gather(1, ends)
        rewards = self.options.beta * (logps - scored.reference.gather(1, ends))
        picked = scored._replace(
            num_tokens=scored.num_tokens.gather(1, ends), mean_logits=scored.mean_logits.gather(1, ends)
        )
        return pair_metrics(picked, rewards=rewards, logps=logps)

    def _ranked(self, example: Example) -> Comparison:
        return expect_comparison(example, self.name, 2, self.num_completions)


OBJECTIVES: dict[str, type[Objective]] = {
    "sft": Sft,
    "dpo": Dpo,
    "simpo": Simpo,
    "cpo": Cpo,
    "tpo": Tpo,
    "kto": Kto,
    "orpo": Orpo,
    "listwise": Listwise,
    "best_of_n": BestOfN,
    "bradley_terry": BradleyTerry,
}


def build_objective(
    options: SftObjective | AlignObjective | BradleyTerryObjective,
    examples: Iterable[Example] = (),
    *,
    data_dir: Path = Path(),
) -> Objective:
    """The objective that a section of the recipe describes.

    ``examples``: all it will see; bradley_terry takes as many completions as they have, and so does listwise where its
    section does not say.
    ``data_dir``: where the file of a loss of one's own is looked up. Raises RecipeError for one that is none.
    """
    if isinstance(options, CustomObjective):
        return Custom(options, load_loss(options, data_dir))
    if isinstance(options, BradleyTerryObjective):
        return BradleyTerry(options, _most_completions(examples))
    if isinstance(options, ListwiseObjective) and options.num_completions is None:
        options = options.model_copy(update={"num_completions": _most_completions(examples)})
    return OBJECTIVES[options.name](options)


def _most_completions(examples: Iterable[Example]) -> int:
    """The most completions of a prompt, at least 2."""
    return max([2, *(len(one.completions) for one in examples if not isinstance(one, Dialogue))])
