"""Held-out preference metrics: how often and by how much a policy prefers what the judge preferred.

The reward of an answer is beta times the policy's log-prob of it minus the reference's, as in training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.evaluate.intervals import Estimate, bootstrap_mean, share
from zephyr.models.scorer import CausalLM, ForestScorer
from zephyr.models.tables import device_of, score_table
from zephyr.trees.forest import Ids, completion_scored


class Pair(NamedTuple):
    """Token ids of a prompt, the preferred answer and the other."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


class PreferenceMetrics(NamedTuple):
    """Over n pairs; a pair of equal rewards is no success. Log-probs are sums over an answer's tokens."""

    accuracy: Estimate
    margin: Estimate
    chosen_reward: float
    rejected_reward: float
    chosen_logps: float
    rejected_logps: float


def answer_logps(model: CausalLM, pairs: Sequence[Pair], *, max_tokens: int) -> Tensor:
    """(n, 2) float64 log-probs of chosen and rejected answers, at most `max_tokens` tokens at a time."""
    scorer = ForestScorer(model)
    rows = [[completion_scored(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)] for pair in pairs]
    return score_table(scorer, rows, max_tokens=max_tokens, device=device_of(scorer)).logps


def preference_metrics(logps: Tensor, ref_logps: Tensor, *, beta: float, seed: int) -> PreferenceMetrics:
    """The metrics of log-probs (n, 2) of a policy and its reference.

    Source: DPO, arXiv 2305.18290, equation 5.
    """
    if logps.shape != ref_logps.shape or logps.ndim != 2 or logps.shape[1] != 2 or not len(logps):
        raise ValueError(f"need two equal tables (n, 2), got {tuple(logps.shape)} and {tuple(ref_logps.shape)}")
    rewards = (beta * (logps - ref_logps)).numpy()
    margins = rewards[:, 0] - rewards[:, 1]
    return PreferenceMetrics(
        accuracy=share(int((margins > 0).sum()), len(margins)),
        margin=bootstrap_mean(margins.tolist(), seed=seed),
        chosen_reward=float(np.mean(rewards[:, 0])),
        rejected_reward=float(np.mean(rewards[:, 1])),
        chosen_logps=float(torch.mean(logps[:, 0])),
        rejected_logps=float(torch.mean(logps[:, 1])),
    )
