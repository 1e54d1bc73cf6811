"""Losses on single completions labelled desirable or not."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_estimate(ratios: Tensor) -> Tensor:
    """Scalar z: the batch mean of log-ratios policy/reference (n,), not below zero and without gradient.

    Source: arXiv 2402.01306, section 4: z0 and how it is estimated.
    """
    return ratios.detach().mean().clamp(min=0)


def kto(ratios: Tensor, kl: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """Losses (n,): 1 - s(beta (d - z)) where ``desirable`` (n,), and 1 - s(beta (z - d)) elsewhere.

    d are the ``ratios`` (n,) of log-probs policy/reference, z is ``kl``, a scalar.

    Source: KTO, arXiv 2402.01306, section 4.
    """
    # 1 - sigmoid(x) is taken as sigmoid(-x), which keeps its digits where x is large.
    logits = beta * (ratios - kl)
    return torch.sigmoid(torch.where(desirable, -logits, logits))


def apo_zero_unpaired(ratios: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """Losses (n,): 1 - s(beta d) where ``desirable`` (n,), and s(beta d) elsewhere, of log-ratios d (n,).

    Source: APO, arXiv 2408.06266, APO-zero on single completions as in TRL's KTOTrainer.
    """
    logits = beta * ratios
    return torch.sigmoid(torch.where(desirable, -logits, logits))
