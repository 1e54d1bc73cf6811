"""Losses that need no reference model: imitation, SimPO, CPO, TPO, ORPO."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zephyr.recipe.objective_section import ContrastiveLossName

# e^80 is the last comfortable power in float32; beyond it a probability has left every useful range.
LARGEST_EXPONENT = 80.0


def nll(logps: Tensor, num_tokens: int) -> Tensor:
    """Scalar: minus the sum of ``logps`` (n,) over ``num_tokens``, the tokens of the whole global batch."""
    return -logps.sum() / num_tokens


def cpo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    loss_type: ContrastiveLossName = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Losses (n,) of margins m = logp_c - logp_r: -(1-e) log s(beta m) - e log s(-beta m), the preference part of CPO.

    ``hinge``: max(0, 1 - beta m); ``ipo``: (m - 1/(2 beta))^2, of mean log-probs.
    Source: CPO, arXiv 2401.08417; the other losses as in TRL's CPOTrainer.
    """
    margins = chosen - rejected
    if loss_type == "hinge":
        return F.relu(1 - beta * margins)
    if loss_type == "ipo":
        return (margins - 1 / (2 * beta)) ** 2
    return -(1 - label_smoothing) * F.logsigmoid(beta * margins) - label_smoothing * F.logsigmoid(-beta * margins)


def simpo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    gamma_beta_ratio: float,
    loss_type: ContrastiveLossName = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Losses (n,): -log s(beta (a_c - a_r - gamma/beta)) of mean log-probs a; ``hinge`` and smoothing as in ``cpo``.

    Source: SimPO, arXiv 2405.14734, equation 6, with the margin as the authors' code has it.
    """
    smoothing = label_smoothing
    return cpo(chosen - gamma_beta_ratio, rejected, beta=beta, loss_type=loss_type, label_smoothing=smoothing)


def shaped(logps: Tensor, alpha: float) -> Tensor:
    """(1 - p^-alpha) / alpha of log-probs log p of any shape, whose limit at alpha = 0 is log p.

    Source: AlphaPO, arXiv 2501.03884, equation 6.
    """
    if alpha == 0.0:
        return logps
    return -torch.expm1((-alpha * logps).clamp(max=LARGEST_EXPONENT)) / alpha


def bradley_terry(chosen: Tensor, rejected: Tensor, *, margin: Tensor, center_rewards_coefficient: float) -> Tensor:
    """Losses (n,): -log s(r_c - r_r - margin) + coefficient (r_c + r_r)^2, of rewards and margins (n,).

    Source: InstructGPT, arXiv 2203.02155, equation 1; margin: Llama 2, arXiv 2307.09288, equation 2; centring:
    arXiv 2312.09244, section 3.
    """
    return -F.logsigmoid(chosen - rejected - margin) + center_rewards_coefficient * (chosen + rejected) ** 2


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) (n,) for x (n,) <= 0, finite also at 0; the absolute error stays at machine precision.

    Source: Maechler, "Accurately computing log(1 - exp(-|a|))", 2012.
    """
    # log1p(-exp(x)) cancels as x -> 0-, where expm1 keeps every digit. Far below zero this form loses
    # relative precision only, of a term that vanishes there. A mean log-prob that rounds to 0 is held at
    # the smallest normal number: the result stays finite, its gradient 0.
    return torch.log(-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).tiny)))


def log_odds(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Logarithm (n,) of the odds ratio of chosen over rejected, odds = p / (1 - p), from mean log-probs.

    Source: ORPO, arXiv 2403.07691, equations 4 and 5.
    """
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Losses (n,): L_OR = -log s(log odds ratio), the preference part of ORPO, from mean log-probs.

    Source: ORPO, arXiv 2403.07691, equation 7.
    """
    return -F.logsigmoid(log_odds(chosen, rejected))
