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

# A nucleus is looked for among so many of the likeliest tokens first: a CPU takes 6 ms to sort 49,152 of one sample.
LIKELIEST = (256, 4096)


def filtered_probs(logits: Tensor, sampling: SamplingSection) -> Tensor:
    """The distribution (n, V) that tokens are drawn from, for `logits` (n, V) and a temperature above 0."""
    probs, ids = _kept(logits, sampling)
    probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs if ids is None else torch.zeros_like(logits).scatter(1, ids, probs)


def _kept(logits: Tensor, sampling: SamplingSection, most: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Probabilities (n, k) of the tokens that may be drawn, up to a factor, and their ids, ascending; None: all.

    Temperature, then top_k, then top_p, as transformers' filters, but that exactly k tokens are left where
    several share the k-th logit. `most`: of the likeliest so many alone, without top_k. Nucleus sampling: arXiv
    1904.09751
    """
    scores = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return scores.softmax(dim=-1), None
    # Best first, and never more of them than top_k leaves: sorting a whole vocabulary is slow.
    kept, ids = scores.topk(most or min(sampling.top_k or scores.shape[-1], scores.shape[-1]))
    probs = kept.softmax(dim=-1) if most is None else scores.softmax(dim=-1).gather(1, ids)
    likelier = probs.cumsum(dim=-1) - probs
    probs = probs.masked_fill(likelier >= sampling.top_p, 0)
    ids, order = ids.sort(dim=-1)
    return probs.gather(1, order), ids


def draw(logits: Tensor, sampling: SamplingSection, uniforms: Tensor) -> Tensor:
    """The drawn ids (n,) for `logits` (n, V) of float32 or wider.

    The inverse of the cumulative distribution at `uniforms` (n,), in vocabulary order: logits that differ in
    the last bits move a draw only if it lies on the border between two tokens.
    """
    if sampling.temperature == 0:
        # The first of equal ones, as argmax, which takes six times as long on a CPU.
        return logits.max(dim=-1).indices
    if logits.device.type != "cpu" or sampling.top_k or sampling.top_p == 1:
        return _inverse(*_kept(logits, sampling), uniforms)
    drawn = torch.empty(len(logits), dtype=torch.int64)
    left = torch.arange(len(logits))
    # Each row by itself decides how many it needs, so that no draw depends on what it is batched with.
    for most in (one for one in LIKELIEST if one < logits.shape[-1]):
        probs, ids = _kept(logits[left], sampling, most)
        drawn[left] = _inverse(probs, ids, uniforms[left])
        left = left[probs.sum(dim=-1) < sampling.top_p]
        if not len(left):
            return drawn
    drawn[left] = _inverse(*_kept(logits[left], sampling), uniforms[left])
    return drawn


def _inverse(probs: Tensor, ids: Tensor | None, uniforms: Tensor) -> Tensor:
    """The ids (n,) at which the cumulative distributions reach `uniforms` (n,)."""
    precise = torch.float64 if probs.device.type in ("cpu", "cuda") else torch.float32
    cumulative = probs.cumsum(dim=-1, dtype=precise)
    # The factor keeps a uniform that rounds to 1 below the total, so that a token is always found.
    points = uniforms.to(cumulative).clamp(max=1 - 2**-23)[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, points, right=True).clamp(max=cumulative.shape[-1] - 1)
    return (places if ids is None else ids.gather(1, places))[:, 0]
