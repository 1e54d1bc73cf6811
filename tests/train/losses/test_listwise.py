"""Rankings: two are a pair, ties stay unordered, absent completions do not count."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from zephyr.recipe.objective_section import DpoObjective
from zephyr.train.losses.pairs import PAIR_LOSSES, Pairs, plackett_luce


def vector(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def random_ranking(num=5, columns=4):
    rewards = torch.randn(num, columns, dtype=torch.float64)
    ratings = torch.arange(columns, 0, -1, dtype=torch.float64).expand(num, columns)
    return rewards, ratings, torch.ones(num, columns, dtype=torch.bool)


def test_listwise_of_two_is_dpo():
    pairs = Pairs(*(-50 + 10 * torch.randn(4, 6, dtype=torch.float64)))
    rewards = 0.1 * torch.stack([pairs.chosen_ratios, pairs.rejected_ratios], dim=1)
    ratings = vector(1.0, 0.0).expand(6, 2)
    losses = plackett_luce(rewards, ratings, torch.ones(6, 2, dtype=torch.bool))
    assert_close(losses, PAIR_LOSSES["sigmoid"].function(pairs, DpoObjective(beta=0.1)))


def test_listwise_draws_the_best_of_the_rest_again_and_again():
    rewards, ratings, present = random_ranking()
    by_hand = sum(-rewards[:, rank:].log_softmax(dim=1)[:, 0] for rank in range(4))
    assert_close(plackett_luce(rewards, ratings, present), by_hand)


def test_listwise_of_equals_is_the_log_of_the_number_of_orders():
    _, ratings, present = random_ranking()
    losses = plackett_luce(torch.zeros(5, 4, dtype=torch.float64), ratings, present)
    assert_close(losses, torch.full_like(losses, math.log(24)))


def test_listwise_follows_the_ratings_not_the_columns():
    rewards, ratings, present = random_ranking()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = plackett_luce(rewards[:, order], ratings[:, order], present)
    assert_close(shuffled, plackett_luce(rewards, ratings, present))


def test_listwise_leaves_ties_unordered():
    rewards, _, present = random_ranking(1, 3)
    a, b, c = rewards[0]
    # Two firsts and a last: each first beats the last, and neither the other.
    losses = plackett_luce(rewards, vector(1.0, 1.0, 0.0).unsqueeze(0), present)
    assert losses.item() == pytest.approx((-F.logsigmoid(a - c) - F.logsigmoid(b - c)).item())
    assert plackett_luce(rewards, torch.zeros(1, 3), present).item() == 0.0


def test_listwise_ignores_absent_completions():
    rewards, ratings, present = random_ranking()
    present[:, 2:] = False
    rewards[:, 3] = torch.nan
    rewards.requires_grad_()
    losses = plackett_luce(rewards, ratings, present)
    assert_close(losses, plackett_luce(rewards[:, :2], ratings[:, :2], present[:, :2]))
    losses.sum().backward()
    assert torch.isfinite(rewards.grad).all()
    assert rewards.grad[:, 2:].abs().max() == 0
