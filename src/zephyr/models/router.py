"""The load-balancing loss of mixture-of-experts models, normalised over the global batch like every other loss.

A token that several sequences share is computed once and counts as often as it would be computed without sharing
(its ``visits``): so the loss is that of the separate sequences, however they are laid out and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zephyr.trees.forest import sent


class ExpertUse(NamedTuple):
    """How often each expert was among a token's chosen ones, (experts,) float64, and over how many router rows."""

    chosen: Tensor
    num_rows: Tensor

    @staticmethod
    def none(num_experts: int, device: torch.device) -> ExpertUse:
        """No token routed yet."""
        count = torch.zeros(num_experts + 1, dtype=_exact(device), device=device)
        return ExpertUse(count[1:], count[0])


def _exact(device: torch.device) -> torch.dtype:
    """A dtype that counts exactly; MPS knows no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def expert_use(router_logits: Sequence[Tensor], visits: Tensor, *, top_k: int) -> ExpertUse:
    """The use of the experts in all layers together, on the logits' device.

    Each layer's logits are (T, experts); ``visits`` (T,) on the CPU says how often each token counts.
    """
    device = router_logits[0].device
    weights = sent(visits, device).to(_exact(device))
    chosen = ExpertUse.none(router_logits[0].shape[1], device).chosen
    for layer in router_logits:
        of_token = torch.zeros_like(layer, dtype=weights.dtype).scatter_(1, layer.detach().topk(top_k).indices, 1.0)
        chosen = chosen + weights @ of_token
    return ExpertUse(chosen, len(router_logits) * weights.sum())


def balance_loss(router_logits: Sequence[Tensor], visits: Tensor, use: ExpertUse) -> Tensor:
    """The share, a scalar, that these tokens have in the loss over all tokens counted in ``use``.

    Each layer's logits are (T, experts); ``visits`` (T,) says how often each token counts.

    experts * sum_e f_e P_e with f_e the fraction of rows that chose expert e (no gradient) and P_e the mean
    router probability of e; linear in P, so the shares of micro-batches add up to the loss of their union.
    Source: Switch Transformers, arXiv 2101.03961, equations 4-6, summed over the top-k choices as transformers does.
    """
    weights = sent(visits.float(), router_logits[0].device)
    probabilities = sum(weights @ layer.float().softmax(-1) for layer in router_logits)
    assert isinstance(probabilities, Tensor)
    fractions = (use.chosen / use.num_rows).to(probabilities)
    return len(fractions) * (fractions * probabilities).sum() / use.num_rows.to(probabilities)
