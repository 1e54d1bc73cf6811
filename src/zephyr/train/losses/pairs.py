"""Losses on preferences with a reference model: the DPO family on pairs, and listwise DPO on rankings.

Notation: d = policy log-prob - reference log-prob of a completion (``*_ratios``), c chosen, r rejected,
h = d_c - d_r (``margins``), s the sigmoid. Every loss is a function (Pairs, options of dpo) -> (n,); an option
that is None has the loss's own default.

To add one: a function and a row in ``PAIR_LOSSES`` here, and its name in ``zephyr.recipe.objective_section``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zephyr.recipe.objective_section import Divergence, DpoObjective, PairLossName
from zephyr.train.losses.kto import kl_estimate, kto
from zephyr.train.losses.reference_free import LARGEST_EXPONENT

# The alpha that gives each named divergence; "alpha_divergence" names its own.
ALPHAS: dict[Divergence, float] = {"reverse_kl": 1.0, "forward_kl": 0.0}
# EXO's loss is infinite without smoothing.
EXO_SMOOTHING = 1e-3
DISCOPOP_TAU = 0.05


class Pairs(NamedTuple):
    """Log-probs (n,) of n pairs: sums over tokens, or means where ``PAIR_LOSSES`` says averaged."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    @property
    def chosen_ratios(self) -> Tensor:
        """d_c (n,)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratios(self) -> Tensor:
        """d_r (n,)."""
        return self.rejected - self.ref_rejected

    @property
    def margins(self) -> Tensor:
        """H (n,)."""
        return self.chosen_ratios - self.rejected_ratios


def desensitised(logps: Tensor, head_logps: Tensor, ld_alpha: float) -> Tensor:
    """Log-probs in which tokens past the length both completions share count ``ld_alpha`` times.

    ``head_logps`` (n, 2) are the sums over the shared length, ``logps`` (n, 2) over everything.
    Source: LD-DPO, arXiv 2409.06411.
    """
    return head_logps + ld_alpha * (logps - head_logps)


def divergence_scores(ratios: Tensor, divergence: Divergence, alpha: float | None = None) -> Tensor:
    """f'(t) of the log-ratios log t, which takes their place in a margin; both (n, 2).

    Reverse KL is log t, that is plain DPO; JS log(2t/(1+t)); alpha (t^(alpha-1) - 1)/(alpha-1), whose limit
    at alpha = 1 is reverse KL and whose value at alpha = 0 is forward KL. ``alpha`` is for "alpha_divergence"
    alone. Raises ValueError where that lacks it.
    Source: f-DPO, arXiv 2309.16240, table 1.
    """
    if divergence == "js_divergence":
        return math.log(2) + F.logsigmoid(ratios)
    power = ALPHAS.get(divergence, alpha)
    if power is None:
        raise ValueError("alpha_divergence needs alpha")
    if power == 1.0:
        return ratios
    return torch.expm1(((power - 1) * ratios).clamp(max=LARGEST_EXPONENT)) / (power - 1)


def _smoothed(logits: Tensor, label_smoothing: float | None) -> Tensor:
    """-(1-e) log s(x) - e log s(-x) of logits x (n,), a share e of the labels taken to be flipped."""
    flips = label_smoothing or 0.0
    # logsigmoid, not log(sigmoid): the latter is -inf from about -104 on in float32.
    return -(1 - flips) * F.logsigmoid(logits) - flips * F.logsigmoid(-logits)


def sigmoid(pairs: Pairs, options: DpoObjective) -> Tensor:
    """DPO: -log s(beta h); with label smoothing e, cDPO: -(1-e) log s(beta h) - e log s(-beta h).

    Given mean log-probs it is length-normalised DPO.
    Source: arXiv 2305.18290, equation 7; cDPO: Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    return _smoothed(options.beta * pairs.margins, options.label_smoothing)


def robust(pairs: Pairs, options: DpoObjective) -> Tensor:
    """Unbiased under flips: [-(1-e) log s(beta h) + e log s(-beta h)] / (1-2e); may be negative.

    Source: Provably Robust DPO, arXiv 2403.00409.
    """
    logits, flips = options.beta * pairs.margins, options.label_smoothing or 0.0
    return (flips * F.logsigmoid(-logits) - (1 - flips) * F.logsigmoid(logits)) / (1 - 2 * flips)


def hinge(pairs: Pairs, options: DpoObjective) -> Tensor:
    """max(0, 1 - beta h).

    Source: SLiC-HF, arXiv 2305.10425, with the margin normalised as in RSO, arXiv 2309.06657.
    """
    return F.relu(1 - options.beta * pairs.margins)


def ipo(pairs: Pairs, options: DpoObjective) -> Tensor:
    """(h - 1/(2 beta))^2, of mean log-probs as the authors confirmed; TRL before 0.7.11 took sums.

    Source: IPO, arXiv 2310.12036, equation 17 (beta is tau there).
    """
    return (pairs.margins - 1 / (2 * options.beta)) ** 2


def exo_pair(pairs: Pairs, options: DpoObjective) -> Tensor:
    """KL of q = s(beta h) from the smoothed label: q (log q - log(1-e)) + (1-q) (log(1-q) - log e), e > 0.

    Source: EXO, arXiv 2402.00856, equation 16.
    """
    logits = options.beta * pairs.margins
    share = EXO_SMOOTHING if options.label_smoothing is None else options.label_smoothing
    smoothing = logits.new_full((), share)
    kept = torch.sigmoid(logits) * (F.logsigmoid(logits) - torch.log1p(-smoothing))
    return kept + torch.sigmoid(-logits) * (F.logsigmoid(-logits) - torch.log(smoothing))


def nca_pair(pairs: Pairs, options: DpoObjective) -> Tensor:
    """-log s(beta d_c) - 1/2 log s(-beta d_c) - 1/2 log s(-beta d_r).

    Source: NCA, arXiv 2402.05369, the case of two responses, one preferred.
    """
    chosen, rejected = options.beta * pairs.chosen_ratios, options.beta * pairs.rejected_ratios
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def bco_pair(pairs: Pairs, options: DpoObjective) -> Tensor:
    """-log s(beta d_c - delta) - log s(-(beta d_r - delta)).

    delta is the mean reward beta d of the batch, without gradient, unless ``bco_delta`` fixes it. TRL before
    1.0 kept a running mean over steps, TRL 1.x has delta = 0, which ``bco_delta=0`` gives.
    Source: BCO, arXiv 2404.04656.
    """
    chosen, rejected = options.beta * pairs.chosen_ratios, options.beta * pairs.rejected_ratios
    delta = options.bco_delta
    shift = torch.cat([chosen, rejected]).detach().mean() if delta is None else delta
    return -F.logsigmoid(chosen - shift) - F.logsigmoid(shift - rejected)


def sppo_hard(pairs: Pairs, options: DpoObjective) -> Tensor:
    """(d_c - 1/(2 beta))^2 + (d_r + 1/(2 beta))^2.

    Source: SPPO, arXiv 2405.00675, equation 4.7 with win probabilities 1 and 0.
    """
    target = 0.5 / options.beta
    return (pairs.chosen_ratios - target) ** 2 + (pairs.rejected_ratios + target) ** 2


def apo_zero(pairs: Pairs, options: DpoObjective) -> Tensor:
    """1 - s(beta d_c) + s(beta d_r): chosen up, rejected down.

    Source: APO, arXiv 2408.06266, equation 7.
    """
    chosen, rejected = options.beta * pairs.chosen_ratios, options.beta * pairs.rejected_ratios
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


def apo_down(pairs: Pairs, options: DpoObjective) -> Tensor:
    """s(beta d_c) + 1 - s(beta h): both down, rejected more.

    Source: APO, arXiv 2408.06266, equation 8.
    """
    return torch.sigmoid(options.beta * pairs.chosen_ratios) + torch.sigmoid(-options.beta * pairs.margins)


def discopop(pairs: Pairs, options: DpoObjective) -> Tensor:
    """(1-k) (-log s(u)) + k e^-u with u = beta h and k = s(u/tau).

    Source: DiscoPOP, arXiv 2406.08414, equation 5.
    """
    logits = options.beta * pairs.margins
    scaled = logits / (options.discopop_tau or DISCOPOP_TAU)
    # k e^-u as one exponential: apart, k underflows and e^-u overflows for u far below zero.
    exponential = torch.exp(F.logsigmoid(scaled) - logits)
    return exponential - torch.sigmoid(-scaled) * F.logsigmoid(logits)


def aot(pairs: Pairs, options: DpoObjective) -> Tensor:
    """Smoothed sigmoid (cDPO) of margins by rank: sorted log-ratios chosen/rejected, policy minus reference.

    The k-th loss belongs to the k-th rank, not to the k-th pair.
    Source: AOT (paired), arXiv 2406.05882.
    """
    policy, reference = pairs.chosen - pairs.rejected, pairs.ref_chosen - pairs.ref_rejected
    margins = policy.sort().values - reference.sort().values
    return _smoothed(options.beta * margins, options.label_smoothing)


def aot_unpaired(pairs: Pairs, options: DpoObjective) -> Tensor:
    """Smoothed sigmoid (cDPO) of margins by rank: the batch's sorted d_c minus its sorted d_r.

    Source: AOT (unpaired), arXiv 2406.05882.
    """
    margins = pairs.chosen_ratios.sort().values - pairs.rejected_ratios.sort().values
    return _smoothed(options.beta * margins, options.label_smoothing)


def kto_pair(pairs: Pairs, options: DpoObjective) -> Tensor:
    """Mean of KTO's losses on both completions, with each half's KL estimated on the other half of the batch.

    The estimates carry no gradient, as in the paper; TRL 0.7.5 to 0.8.6 let it through.
    Source: KTO, arXiv 2402.01306, in the paired form TRL had from 0.7.5 to 0.8.6.
    """
    chosen, rejected = pairs.chosen_ratios, pairs.rejected_ratios
    desirable = torch.ones_like(chosen, dtype=torch.bool)
    raised = kto(chosen, kl_estimate(rejected), desirable, options.beta)
    lowered = kto(rejected, kl_estimate(chosen), ~desirable, options.beta)
    return (raised + lowered) / 2


def plackett_luce(rewards: Tensor, ratings: Tensor, present: Tensor) -> Tensor:
    """Losses (n,): minus the log-probability of drawing the completions in the order of their ratings.

    ``rewards``, ``ratings`` (n, N); ``present`` (n, N) bool marks the completions a prompt really has. A
    completion competes with itself and all that are rated strictly lower; tied ones stay unordered. With
    rewards beta times the log-ratios this is listwise DPO, and sigmoid DPO for N = 2.
    Source: DPO, arXiv 2305.18290, appendix A.3, equation 20.
    """
    # Competitors (n, N, N): row k, column j. The diagonal is always in, so that no logsumexp runs over
    # nothing (its gradient would be NaN); rows of absent completions are then 0 - 0.
    worse = (ratings.unsqueeze(2) > ratings.unsqueeze(1)) & present.unsqueeze(2) & present.unsqueeze(1)
    competes = worse | torch.eye(ratings.shape[1], dtype=torch.bool, device=ratings.device)
    rewards = rewards.masked_fill(~present, 0.0)
    field = rewards.unsqueeze(1).expand_as(competes).masked_fill(~competes, -torch.inf)
    return (field.logsumexp(dim=2) - rewards).sum(dim=1)


class PairLoss(NamedTuple):
    """A loss and what it needs.

    ``averaged``: it takes mean log-probs a token; ``coupled``: one pair's loss depends on the whole batch. Its options
    beyond beta stand in ``zephyr.recipe.objective_section``.
    """

    function: Callable[[Pairs, DpoObjective], Tensor]
    averaged: bool = False
    coupled: bool = False


PAIR_LOSSES: dict[PairLossName, PairLoss] = {
    "sigmoid": PairLoss(sigmoid),
    "sigmoid_norm": PairLoss(sigmoid, averaged=True),
    "robust": PairLoss(robust),
    "hinge": PairLoss(hinge),
    "ipo": PairLoss(ipo, averaged=True),
    "ipo_sum": PairLoss(ipo),
    "exo_pair": PairLoss(exo_pair),
    "nca_pair": PairLoss(nca_pair),
    "bco_pair": PairLoss(bco_pair, coupled=True),
    "sppo_hard": PairLoss(sppo_hard),
    "apo_zero": PairLoss(apo_zero),
    "apo_down": PairLoss(apo_down),
    "discopop": PairLoss(discopop),
    "aot": PairLoss(aot, coupled=True),
    "aot_unpaired": PairLoss(aot_unpaired, coupled=True),
    "kto_pair": PairLoss(kto_pair, coupled=True),
}
