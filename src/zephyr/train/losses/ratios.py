"""What may be done to log-probs and log-ratios before a pair loss sees them: LD-DPO and f-divergences."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zephyr.recipe.train_section import Divergence

# e^80 is the last comfortable power in float32; a log-ratio beyond it has left every useful range.
LARGEST_EXPONENT = 80.0

# The alpha that gives each named divergence; "alpha_divergence" names its own.
ALPHAS: dict[Divergence, float] = {"reverse_kl": 1.0, "forward_kl": 0.0}


def desensitised(logps: Tensor, head_logps: Tensor, ld_alpha: float) -> Tensor:
    """Log-probs in which tokens past the length both completions share count ``ld_alpha`` times.

    ``head_logps`` are the sums over the shared length, ``logps`` over everything; any equal shapes.
    Source: LD-DPO, arXiv 2409.06411.
    """
    return head_logps + ld_alpha * (logps - head_logps)


def divergence_scores(ratios: Tensor, divergence: Divergence, alpha: float | None = None) -> Tensor:
    """f'(t) of the log-ratios log t, which takes their place in a margin; same shape.

    Reverse KL is log t, that is plain DPO; JS log(2t/(1+t)); alpha (t^(alpha-1) - 1)/(alpha-1), whose limit
    at alpha = 1 is reverse KL and whose value at alpha = 0 is forward KL. ``alpha`` is for "alpha_divergence"
    alone.
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
