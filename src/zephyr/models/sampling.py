"""How the next token is chosen from logits: the settings, the filters and the draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Ending(Protocol):
    """What ends a completion besides its stop ids, such as a text."""

    @property
    def lookback(self) -> int:
        """How many of the newest ids `reached` wants to see."""

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether a completion with these newest ids has ended."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature, then top_k, then top_p; temperature 0 takes the best token."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()
    ending: Ending | None = None

    def __post_init__(self) -> None:
        """Refuse what no distribution has."""
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None for no limit, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")


def filtered_probs(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution (n, V) that tokens are drawn from, for `logits` (n, V) and a temperature above 0.

    Temperature, then top_k, then top_p, as transformers' filters, but that exactly k tokens are left where
    several share the k-th logit. Nucleus sampling: arXiv 1904.09751
    """
    scores = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p == 1:
        return scores.softmax(dim=-1)
    # Best first, and never more of them than top_k leaves: sorting a whole vocabulary is slow.
    kept, ids = scores.topk(min(sampling.top_k or scores.shape[-1], scores.shape[-1]))
    probs = kept.softmax(dim=-1)
    likelier = probs.cumsum(dim=-1) - probs
    probs = probs.masked_fill(likelier >= sampling.top_p, 0)
    filtered = torch.zeros_like(scores).scatter(1, ids, probs)
    return filtered / filtered.sum(dim=-1, keepdim=True)


def draw(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The drawn ids (n,) and their log-probs (n,) under the unfiltered model, for `logits` (n, V).

    The inverse of the cumulative distribution at `uniforms` (n,), in vocabulary order: logits that differ in
    the last bits move a draw only if it lies on the border between two tokens.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if sampling.temperature == 0:
        drawn = logits.argmax(dim=-1)
    else:
        precise = torch.float64 if logits.device.type in ("cpu", "cuda") else torch.float32
        cumulative = filtered_probs(logits, sampling).to(precise).cumsum(dim=-1)
        # The factor keeps a uniform that rounds to 1 below the total, so that a token is always found.
        points = uniforms.to(cumulative).clamp(max=1 - 2**-23)[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, points, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return drawn, logits.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
