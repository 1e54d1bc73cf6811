"""Log-probabilities of continuations: which batches share most, and what a batch's prefix tree says of each.

A continuation's last token is predicted but predicts nothing, so it is never computed itself. What the ids mean, and
which requests are the same, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from zephyr.models.batch_scoring import device_of, frozen
from zephyr.models.head import output_head
from zephyr.models.scorer import ForestScorer
from zephyr.trees.forest import Forest, Ids, ScoredSequence, build_forest
from zephyr.trees.score import predict_edges


class Continuation(NamedTuple):
    """Token ids (n,) of which the last ``num_scored`` are scored; at least one token comes before those."""

    ids: Ids
    num_scored: int


class ContinuationScore(NamedTuple):
    """The sum of the scored tokens' log-probs, and whether each was the likeliest token in its place."""

    logp: float
    is_greedy: bool


def plan_batches(continuations: Sequence[Continuation], *, max_tokens: int) -> list[list[int]]:
    """Batches of indices, each a forest of at most ``max_tokens`` unique tokens, in lexical order of the ids.

    A continuation that is longer alone is a batch alone. A batch is cut where its neighbours share least, though not
    in its first half, so that a long context is seldom computed for two batches.
    """
    order = sorted(range(len(continuations)), key=lambda index: _sort_key(continuations[index].ids))
    shared = [0, *(_common(continuations[a].ids, continuations[b].ids) for a, b in pairwise(order))]
    lengths = [len(continuations[index].ids) - 1 for index in order]
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        end = _full_batch(lengths, shared, start, max_tokens)
        if end < len(order):
            first = start + (end - start + 1) // 2
            end = min(range(end, max(first, start + 1) - 1, -1), key=lambda place: shared[place])
        batches.append(order[start:end])
        start = end
    return batches


def score_continuations(scorer: ForestScorer, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
    """The scores of one batch, computed in one forest without gradients."""
    device = device_of(scorer)
    forest = build_forest([_without_last(one) for one in continuations])
    last_ids = torch.tensor([int(one.ids[-1]) for one in continuations])
    sources = torch.cat([forest.edge_source, forest.last]).to(device)
    targets = torch.cat([forest.edge_target, last_ids]).to(device)
    with frozen(scorer):
        hidden = scorer.hidden_states(forest.to(device))
        found = predict_edges(hidden, output_head(scorer.transformers_model), sources, targets)
    logps, is_best = found.logps.double().cpu(), found.is_best.cpu()
    return _by_sequence(forest, logps, is_best)


def _by_sequence(forest: Forest, logps: torch.Tensor, is_best: torch.Tensor) -> list[ContinuationScore]:
    """Sums over each sequence's edges; the edge of its last token follows those of the forest."""
    sums = logps[forest.num_edges :].index_add(0, forest.member_sequence, logps[forest.member_edge])
    misses = (~is_best[forest.num_edges :]).long()
    misses = misses.index_add(0, forest.member_sequence, (~is_best[forest.member_edge]).long())
    return [ContinuationScore(logp, not missed) for logp, missed in zip(sums.tolist(), misses.tolist(), strict=True)]


def _without_last(continuation: Continuation) -> ScoredSequence:
    ids, num_scored = continuation
    if not 1 <= num_scored < len(ids):
        raise ValueError(f"need 1 <= num_scored < {len(ids)} tokens, got {num_scored}")
    return ScoredSequence(ids[:-1], np.arange(len(ids) - 1) >= len(ids) - num_scored)


def _sort_key(ids: Ids) -> bytes:
    # Big-endian bytes of equal width compare as the numbers do, and far faster than lists of them.
    return ids.astype(">u4").tobytes()


def _common(first: Ids, second: Ids) -> int:
    """How many tokens two sequences without their last ones share at the start."""
    length = min(len(first), len(second)) - 1
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length


def _full_batch(lengths: Sequence[int], shared: Sequence[int], start: int, max_tokens: int) -> int:
    """The place behind the last sequence that the budget has room for, counted from ``start``; at least one fits."""
    total, end = lengths[start], start + 1
    while end < len(lengths) and total + lengths[end] - shared[end] <= max_tokens:
        total += lengths[end] - shared[end]
        end += 1
    return end
