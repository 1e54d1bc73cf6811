"""How the next token is chosen from logits: the filters and the draw."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zephyr.recipe.teacher_section import SamplingSection


class Ending(Protocol):
    """What ends a completion besides its stop ids, such as a text."""

    @property
    def lookback(self) -> int:
        """How many of the newest ids `reached` wants to see."""

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether a completion with these newest ids may have ended."""

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether it has, by all its ids; asked where `reached` says so."""


class Stopping(NamedTuple):
    """What ends a completion: any of the ids, which then is its last, or an ending."""

    ids: Collection[int] = ()
    ending: Ending | None = None


NEVER = Stopping()


def filtered_probs(logits: Tensor, sampling: SamplingSection) -> Tensor:
    """The distribution (n, V) that tokens are drawn from, for `logits` (n, V) and a temperature above 0.

    Temperature, then top_k, then top_p, as transformers' filters, but that exactly k tokens are left where
    several share the k-th logit. Nucleus sampling: arXiv 1904.09751
    """
    scores = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return scores.softmax(dim=-1)
    # Best first, and never more of them than top_k leaves: sorting a whole vocabulary is slow.
    kept, ids = scores.topk(min(sampling.top_k or scores.shape[-1], scores.shape[-1]))
    probs = kept.softmax(dim=-1)
    likelier = probs.cumsum(dim=-1) - probs
    probs = probs.masked_fill(likelier >= sampling.top_p, 0)
    filtered = torch.zeros_like(scores).scatter(1, ids, probs)
    return filtered / filtered.sum(dim=-1, keepdim=True)


def draw(logits: Tensor, sampling: SamplingSection, uniforms: Tensor) -> tuple[Tensor, Tensor]:
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
