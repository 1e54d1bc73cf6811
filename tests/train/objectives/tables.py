"""Examples of every objective, and tables of scores for them as a linear model would make them."""

from typing import NamedTuple

import numpy as np
import torch

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.train.losses.pairs import PAIR_LOSSES
from zephyr.train.objectives import Scored

OPTIONS = [
    ("sft", {}),
    *[("dpo", {"beta": 0.1, "loss_type": loss_type}) for loss_type in PAIR_LOSSES],
    ("dpo", {"beta": 0.1, "label_smoothing": 0.1}),
    ("dpo", {"beta": 0.1, "loss_type": "bco_pair", "bco_delta": 0.0}),
    ("dpo", {"beta": 0.1, "ld_alpha": 0.3, "rpo_alpha": 0.5}),
    ("dpo", {"beta": 0.1, "f_divergence": "js_divergence"}),
    ("dpo", {"beta": 0.1, "f_divergence": "js_divergence", "loss_type": "sigmoid_norm", "use_weighting": True}),
    ("dpo", {"beta": 0.1, "loss_type": "bco_pair", "use_weighting": True}),
    ("dpo", {"beta": 0.1, "f_divergence": "alpha_divergence", "f_alpha": 0.5}),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5, "sft_weight": 0.2}),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5, "loss_type": "hinge"}),
    ("cpo", {"beta": 0.1, "cpo_alpha": 1.0}),
    ("simpo", {"beta": 2.0, "alpha": 0.25, "label_smoothing": 0.1}),
    ("cpo", {"beta": 0.1, "loss_type": "ipo", "alpha": -0.5}),
    ("tpo", {"beta": 0.1}),
    ("tpo", {"beta": 0.1, "loss_type": "tpo_l", "label_smoothing": 0.1}),
    ("kto", {"beta": 0.1, "desirable_weight": 1.33}),
    ("orpo", {"beta": 0.1}),
    ("orpo", {"beta": 0.1, "nll_on_prompt": False}),
    ("listwise", {"beta": 0.1, "num_completions": 4}),
    ("best_of_n", {}),
]
OBJECTIVES = [make_objective(name, options) for name, options in OPTIONS]


def label(objective):
    """A name for a test of this objective."""
    return "-".join(f"{value}" for value in objective.options.model_dump().values() if value)


def ids(num, start=1):
    return np.arange(start, start + num, dtype=np.int64)


def pair(num_chosen=3, num_rejected=2, num_prompt=4, name="pairs row 1"):
    return Comparison(name, ids(num_prompt), (ids(num_chosen, 50), ids(num_rejected, 70)), (1.0, 0.0))


def dialogue(num=6, num_scored=4, name="chats row 1"):
    return Dialogue(name, ids(num), np.arange(num) >= num - num_scored)


def rated(rating, num=3, num_mismatched=2, name="labels row 1"):
    return Comparison(name, ids(4), (ids(num, 50), ids(num_mismatched, 70)), (rating, 0.0))


def ranking(ratings, name="ranks row 1"):
    completions = tuple(ids(2 + rank, 50 + 10 * rank) for rank in range(len(ratings)))
    return Comparison(name, ids(4), completions, tuple(ratings))


def examples_for(objective, num=6):
    """Examples of different lengths, ratings and numbers of completions."""
    match objective.name:
        case "sft":
            return [dialogue(5 + row, 1 + row) for row in range(num)]
        case "kto":
            return [rated(float(row % 3 != 0), 2 + row, 7 - row) for row in range(num)]
        case "tpo":
            return [ranking([3.0, 2.0, 1.0, 0.0][: 3 + row % 2]) for row in range(num)]
        case "listwise":
            lists = ([3.0, 2.0, 1.0, 0.0], [5.0, 5.0, 1.0], [1.0, 0.0])
            return [ranking(lists[row % 3]) for row in range(num)]
        case _:
            return [pair(2 + row, 7 - row) for row in range(num)]


class Problem(NamedTuple):
    """A linear model of (B, C) log-probs: features (B, C, P) times weights (P,) make log-probs."""

    objective: object
    examples: list
    features: torch.Tensor
    ref_logps: torch.Tensor
    num_tokens: torch.Tensor
    mean_logits: torch.Tensor

    @property
    def totals(self):
        return self.objective.totals(self.examples)

    def scored(self, weights, rows):
        """The table of some rows: n tokens have log-prob n times minus softplus of their features."""
        rows = list(rows)
        tokens = self.num_tokens[rows]
        means = -torch.nn.functional.softplus(self.features[rows] @ weights)
        reference = self.ref_logps[rows] if self.objective.needs_reference else None
        labels = self.objective.labels([self.examples[row] for row in rows])
        collisions = self.mean_logits[rows].abs().neg() if self.objective.weighs_by_policy else None
        return Scored(means * tokens, tokens, reference, self.mean_logits[rows], labels, collisions)


def problem(objective, num=6):
    """A random problem; its numbers of tokens are those of the objective's sequences."""
    examples = examples_for(objective, num)
    counts = [[int(sequence.scored.sum()) for sequence in objective.sequences(one)] for one in examples]
    num_tokens = torch.tensor(counts)
    features = torch.randn(*num_tokens.shape, 3, dtype=torch.float64)
    ref_logps = -torch.rand(num_tokens.shape, dtype=torch.float64) * num_tokens
    return Problem(objective, examples, features, ref_logps, num_tokens, torch.randn(num_tokens.shape))


def table(logps, num_tokens, *, ref_logps=None, labels=None, mean_logits=None):
    """A table written out by hand, a list a row."""
    logps = torch.tensor(logps, dtype=torch.float64)
    return Scored(
        logps,
        torch.tensor(num_tokens),
        None if ref_logps is None else torch.tensor(ref_logps, dtype=torch.float64),
        torch.zeros_like(logps) if mean_logits is None else torch.tensor(mean_logits, dtype=torch.float64),
        torch.zeros_like(logps) if labels is None else torch.tensor(labels, dtype=torch.float64),
    )


def means(metrics):
    """The metrics as plain numbers."""
    return {name: (metric.total / metric.weight).item() for name, metric in metrics.items()}
