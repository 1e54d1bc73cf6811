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

# A nucleus is looked for among tokens of at least this probability first, for sorting a whole vocabulary is slow.
LIKELY = 1e-5
# Logits that a CPU works on together: these stay in its cache.
CACHED_LOGITS = 1 << 21


def filtered_probs(logits: Tensor, sampling: SamplingSection) -> Tensor:
    """The distribution (n, V) that tokens are drawn from, for `logits` (n, V) and a temperature above 0."""
    probs, ids = _kept(logits, sampling)
    probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs if ids is None else torch.zeros_like(logits).scatter(1, ids, probs)


def _kept(logits: Tensor, sampling: SamplingSection) -> tuple[Tensor, Tensor | None]:
    """Probabilities (n, k) of the tokens that may be drawn, up to a factor, and their ids, ascending; None: all.

    Temperature, then top_k, then top_p, as transformers' filters, but that exactly k tokens are left where several
    share the k-th logit, and of a nucleus the first of equal ones. Nucleus sampling: arXiv 1904.09751
    """
    scores = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return scores.softmax(dim=-1), None
    # Best first, and never more of them than top_k leaves.
    if sampling.top_k:
        kept, ids = scores.topk(min(sampling.top_k, scores.shape[-1]))
        probs = kept.softmax(dim=-1)
    else:
        probs, ids = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    probs = _nucleus(probs, sampling.top_p)
    ids, order = ids.sort(dim=-1)
    return probs.gather(1, order), ids


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Probabilities (n, k), the largest first, with 0 for all behind those that together reach `top_p`."""
    likelier = probs.cumsum(dim=-1) - probs
    return probs.masked_fill(likelier >= top_p, 0)


def draw(logits: Tensor, sampling: SamplingSection, uniforms: Tensor) -> Tensor:
    """The drawn ids (n,) for `logits` (n, V) of float32 or wider.

    The inverse of the cumulative distribution at `uniforms` (n,), in vocabulary order: logits that differ in
    the last bits move a draw only if it lies on the border between two tokens.
    """
    if sampling.temperature == 0:
        # The first of equal ones, as argmax, which takes six times as long on a CPU.
        return logits.max(dim=-1).indices
    if logits.device.type != "cpu":
        return _inverse(*_kept(logits, sampling), uniforms)
    size = max(1, CACHED_LOGITS // logits.shape[-1])
    blocks = zip(torch.split(logits, size), torch.split(uniforms, size), strict=True)
    if sampling.top_k or sampling.top_p == 1:
        return torch.cat([_inverse(*_kept(block, sampling), points) for block, points in blocks])
    return torch.cat([_drawn_of_nucleus(block, sampling, points) for block, points in blocks])


def _drawn_of_nucleus(logits: Tensor, sampling: SamplingSection, uniforms: Tensor) -> Tensor:
    """What is drawn (n,) of the likeliest tokens that together have `top_p`; of equal ones the first come first."""
    probs = (logits / sampling.temperature).softmax(dim=-1)
    likely = probs >= LIKELY
    # Each row by itself decides whether these are enough, so that no draw depends on what it is batched with.
    likely |= ~((probs * likely).sum(dim=-1) >= sampling.top_p)[:, None]
    rows, ids = likely.nonzero(as_tuple=True)
    counts = likely.sum(dim=-1)
    columns = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    held = probs.new_zeros(len(probs), int(counts.max()))
    names = ids.new_zeros(held.shape)
    held[rows, columns], names[rows, columns] = probs[rows, ids], ids
    best, order = held.sort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(held).scatter(1, order, _nucleus(best, sampling.top_p))
    return _inverse(kept, names, uniforms)


def _inverse(probs: Tensor, ids: Tensor | None, uniforms: Tensor) -> Tensor:
    """The ids (n,) at which the cumulative distributions reach `uniforms` (n,)."""
    precise = torch.float64 if probs.device.type in ("cpu", "cuda") else torch.float32
    cumulative = probs.cumsum(dim=-1, dtype=precise)
    # The factor keeps a uniform that rounds to 1 below the total, so that a token is always found.
    points = uniforms.to(cumulative).clamp(max=1 - 2**-23)[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, points, right=True).clamp(max=cumulative.shape[-1] - 1)
    return (places if ids is None else ids.gather(1, places))[:, 0]
