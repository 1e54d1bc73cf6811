"""Losses on whole rankings of a prompt's completions."""

from __future__ import annotations

import torch
from torch import Tensor


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
