"""Metrics on held-out rows: the perplexity of dialogues, and how often and by how much a policy prefers as the judge.

The reward of an answer is beta times the policy's log-prob of it minus the reference's, as in training.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.intervals import Estimate, bootstrap_mean, mean_within
from zephyr.models.batch_scoring import device_of, score_table
from zephyr.models.own_forward import NUM_COMPARED, proven_scorer
from zephyr.models.scorer import CausalLM
from zephyr.progress import SILENT, Display
from zephyr.trees.forest import Ids, ScoredSequence, completion_scored


class Pair(NamedTuple):
    """Token ids of a prompt, the preferred answer and the other."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


class PreferenceMetrics(NamedTuple):
    """Over all pairs; a pair of equal rewards is no success. Log-probs are sums over an answer's tokens.

    Intervals are over prompts, `n` of them, since the pairs of one prompt are alike.
    """

    accuracy: Estimate
    margin: Estimate
    num_pairs: int
    chosen_reward: float
    rejected_reward: float
    chosen_logps: float
    rejected_logps: float


def answer_logps(model: CausalLM, pairs: Sequence[Pair], *, max_tokens: int, display: Display = SILENT) -> Tensor:
    """(n, 2) float64 log-probs of chosen and rejected answers, at most `max_tokens` tokens at a time.

    ``display`` shows the number of pairs done. Raises ModelError for a model that is not scored as it computes.
    """
    rows = [[completion_scored(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)] for pair in pairs]
    scorer = proven_scorer(model, [sequence.ids for row in rows[:NUM_COMPARED] for sequence in row])
    return score_table(scorer, rows, max_tokens=max_tokens, device=device_of(scorer), after=_shown_on(display)).logps


def _shown_on(display: Display) -> Callable[[list[int]], None]:
    """Shows how many rows are scored, behind each of their micro-batches."""
    scored: list[int] = []

    def show(indices: list[int]) -> None:
        scored.extend(indices)
        display.update(len(scored))

    return show


def prompt_numbers(pairs: Sequence[Pair]) -> list[int]:
    """A number for the prompt of each pair; pairs of equal prompts have the same."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(pair.prompt.tobytes(), len(seen)) for pair in pairs]


def preference_metrics(
    logps: Tensor, ref_logps: Tensor, *, prompts: Sequence[int], beta: float, seed: int
) -> PreferenceMetrics:
    """The metrics of log-probs (n, 2) of a policy and its reference; `prompts` numbers the prompt of each pair.

    Raises ValueError for other shapes. Source: DPO, arXiv 2305.18290, equation 5.
    """
    if logps.shape != ref_logps.shape or logps.ndim != 2 or logps.shape[1] != 2 or not len(logps):
        raise ValueError(f"need two equal tables (n, 2), got {tuple(logps.shape)} and {tuple(ref_logps.shape)}")
    rewards = (beta * (logps - ref_logps)).numpy()
    margins = rewards[:, 0] - rewards[:, 1]
    return PreferenceMetrics(
        accuracy=mean_within((margins > 0).tolist(), (0.0, 1.0), seed=seed, groups=prompts),
        margin=bootstrap_mean(margins.tolist(), seed=seed, groups=prompts),
        num_pairs=len(margins),
        chosen_reward=float(np.mean(rewards[:, 0])),
        rejected_reward=float(np.mean(rewards[:, 1])),
        chosen_logps=float(torch.mean(logps[:, 0])),
        rejected_logps=float(torch.mean(logps[:, 1])),
    )


class Perplexity(NamedTuple):
    """exp of the mean negative log-prob of the scored tokens."""

    perplexity: float
    num_tokens: int


def perplexity(
    model: CausalLM, sequences: Sequence[ScoredSequence], *, max_tokens: int, display: Display = SILENT
) -> Perplexity:
    """The perplexity of the scored tokens of all sequences, at most `max_tokens` tokens at a time.

    ``display`` shows the number of sequences done. Raises ValueError where no token is scored, ModelError for a model
    that is not scored as it computes.
    """
    if not sequences:
        raise ValueError("need at least one sequence")
    scorer = proven_scorer(model, [sequence.ids for sequence in sequences[:NUM_COMPARED]])
    rows, device = [[one] for one in sequences], device_of(scorer)
    table = score_table(scorer, rows, max_tokens=max_tokens, device=device, after=_shown_on(display))
    num_tokens = int(table.num_tokens.sum())
    if num_tokens == 0:
        raise ValueError("no token of these sequences is scored")
    return Perplexity(math.exp(-float(table.logps.sum()) / num_tokens), num_tokens)
