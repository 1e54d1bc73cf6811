"""Losses that need no reference model: imitation, SimPO, CPO, ORPO."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nll(logps: Tensor, num_tokens: int) -> Tensor:
    """Scalar: minus the sum of ``logps`` (n,) over ``num_tokens``, the tokens of the whole global batch."""
    return -logps.sum() / num_tokens


def simpo(chosen: Tensor, rejected: Tensor, *, beta: float, gamma_beta_ratio: float) -> Tensor:
    """Losses (n,): -log s(beta (a_c - a_r - gamma/beta)) of mean log-probs a.

    Source: SimPO, arXiv 2405.14734, equation 6, with the margin as the authors' code has it.
    """
    return -F.logsigmoid(beta * (chosen - rejected - gamma_beta_ratio))


def simpo_hinge(chosen: Tensor, rejected: Tensor, *, beta: float, gamma_beta_ratio: float) -> Tensor:
    """Losses (n,): max(0, 1 - beta (a_c - a_r - gamma/beta)) of mean log-probs a.

    Source: princeton-nlp/SimPO, loss_type hinge.
    """
    return F.relu(1 - beta * (chosen - rejected - gamma_beta_ratio))


SIMPO_LOSSES = {"sigmoid": simpo, "hinge": simpo_hinge}


def cpo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """Losses (n,): -log s(beta (logp_c - logp_r)) of summed log-probs, the preference part of CPO.

    Source: CPO, arXiv 2401.08417.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


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
