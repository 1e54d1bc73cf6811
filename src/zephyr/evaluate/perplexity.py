"""Perplexity a token of held-out sequences."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from zephyr.models.batch_scoring import device_of, score_table
from zephyr.models.scorer import CausalLM, ForestScorer
from zephyr.trees.forest import ScoredSequence


class Perplexity(NamedTuple):
    """exp of the mean negative log-prob of the scored tokens."""

    perplexity: float
    num_tokens: int


def perplexity(model: CausalLM, sequences: Sequence[ScoredSequence], *, max_tokens: int) -> Perplexity:
    """The perplexity of the scored tokens of all sequences, at most `max_tokens` tokens at a time."""
    if not sequences:
        raise ValueError("need at least one sequence")
    scorer = ForestScorer(model)
    table = score_table(scorer, [[one] for one in sequences], max_tokens=max_tokens, device=device_of(scorer))
    num_tokens = int(table.num_tokens.sum())
    if num_tokens == 0:
        raise ValueError("no token of these sequences is scored")
    return Perplexity(math.exp(-float(table.logps.sum()) / num_tokens), num_tokens)
