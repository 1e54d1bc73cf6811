"""The load-balancing loss of mixture-of-experts models, normalised over the global batch like every other loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class ExpertUse(NamedTuple):
    """How often each expert was among a token's chosen ones, (experts,) float64, and over how many router rows."""

    chosen: Tensor
    num_rows: Tensor

    @staticmethod
    def none(num_experts: int) -> ExpertUse:
        """No token routed yet."""
        return ExpertUse(torch.zeros(num_experts, dtype=torch.float64), torch.zeros((), dtype=torch.float64))


def expert_use(router_logits: Sequence[Tensor], *, top_k: int) -> ExpertUse:
    """The use of the experts in all layers together, on the CPU; each layer's logits are (T, experts)."""
    rows = torch.cat([layer.detach() for layer in router_logits])
    chosen = functional.one_hot(rows.topk(top_k, dim=-1).indices, rows.shape[1]).sum((0, 1))
    return ExpertUse(chosen.double().cpu(), torch.tensor(float(len(rows)), dtype=torch.float64))


def balance_loss(router_logits: Sequence[Tensor], use: ExpertUse) -> Tensor:
    """The share that these tokens have in the loss over all tokens counted in ``use``.

    experts * sum_e f_e P_e with f_e the fraction of rows that chose expert e (no gradient) and P_e the mean
    router probability of e; linear in P, so the shares of micro-batches add up to the loss of their union.
    Source: Switch Transformers, arXiv 2101.03961, equations 4-6, summed over the top-k choices as transformers does.
    """
    probabilities = torch.cat(list(router_logits)).float().softmax(-1).sum(0)
    fractions = (use.chosen / use.num_rows).to(probabilities)
    return len(fractions) * (fractions * probabilities).sum() / float(use.num_rows)
