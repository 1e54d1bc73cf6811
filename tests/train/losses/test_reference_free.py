"""SimPO, CPO and ORPO: hand-worked numbers, and probabilities that round to one."""

import math

import pytest
import torch
from torch.testing import assert_close

from zephyr.train.losses.reference_free import (
    bradley_terry,
    cpo,
    log1mexp,
    log_odds,
    nll,
    odds_ratio,
    shaped,
    simpo,
)

LN2 = math.log(2)


def vector(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def test_hand_worked_nll():
    logps = vector(0.5, 0.25, 0.8).log()
    assert nll(logps, 1).item() == pytest.approx(2.302585, abs=5e-7)
    assert nll(logps, 3).item() == pytest.approx(0.767528, abs=5e-7)
    assert nll(logps, 3).exp().item() == pytest.approx(2.154435, abs=5e-7)
    assert vector(2.0, 1.0, 0.0).log_softmax(0)[0].item() == pytest.approx(-0.407606, abs=5e-7)


@pytest.mark.parametrize(
    ("beta", "ratio", "options", "expected"),
    [
        (2.0, 0.8, {}, 1.313262),
        (2.0, 0.5, {}, 0.913015),
        (2.5, 0.3, {}, 0.693147),
        (2.0, 0.8, {"loss_type": "hinge"}, 2.0),
        (0.1, 0.5 / 0.1, {}, 0.955509),
        # 0.9 * 1.313262 + 0.1 * 0.313262
        (2.0, 0.8, {"label_smoothing": 0.1}, 1.213262),
    ],
)
def test_hand_worked_simpo(beta, ratio, options, expected):
    value = simpo(vector(-0.5), vector(-0.8), beta=beta, gamma_beta_ratio=ratio, **options)
    assert value.item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.313262),
        ({"label_smoothing": 0.1}, 0.9 * 0.313262 + 0.1 * 1.313262),
        ({"loss_type": "hinge"}, 0.0),
        ({"loss_type": "ipo"}, 25.0),  # (10 - 5)^2
    ],
)
def test_hand_worked_cpo(options, expected):
    assert cpo(vector(-50.0), vector(-60.0), beta=0.1, **options).item() == pytest.approx(expected, abs=1e-6)


def test_hand_worked_alphapo():
    logps = vector(-0.5, -0.8)
    # 4 (1 - e^0.125) and 4 (1 - e^0.2); -2 (1 - e^-0.25) and -2 (1 - e^-0.4).
    assert shaped(logps, 0.25).tolist() == pytest.approx([-0.532594, -0.885611], abs=5e-7)
    assert shaped(logps, -0.5).tolist() == pytest.approx([-0.442398, -0.659360], abs=5e-7)
    assert shaped(logps, 0.0) is logps
    assert_close(shaped(logps, 1e-9), logps)
    assert shaped(vector(-1e4), 0.25).isfinite()


def test_hand_worked_orpo():
    chosen, rejected = vector(-0.5).requires_grad_(), vector(-0.8)
    odds = [(value.exp() / (1 - value.exp())).item() for value in (chosen, rejected)]
    assert odds == pytest.approx([1.541494, 0.815966], abs=5e-7)
    assert log_odds(chosen, rejected).item() == pytest.approx(0.636134, abs=5e-7)
    loss = odds_ratio(chosen, rejected)
    assert loss.item() == pytest.approx(0.424833, abs=5e-7)
    totals = [(0.6 + weight * loss).item() for weight in (0.05, 0.1, 0.25)]
    assert totals == pytest.approx([0.621242, 0.642483, 0.706208], abs=5e-7)
    (0.1 * loss).backward()
    assert chosen.grad.item() == pytest.approx(-0.087966, abs=5e-7)
    assert odds_ratio(rejected, rejected).item() == pytest.approx(LN2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_equals_more_digits(dtype):
    points = [-1e-30, -1e-12, -1e-6, -1e-3, -0.1, -LN2, -1.0, -10.0, -50.0, -200.0]
    expected = [math.log(-math.expm1(x)) if x > -LN2 else math.log1p(-math.exp(x)) for x in points]
    assert_close(log1mexp(vector(*points, dtype=dtype)), vector(*expected, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_is_finite_where_probabilities_reach_one(dtype):
    chosen = vector(0.0, -1e-38, -1e-20, -1e-8, -0.5, 0.0, dtype=dtype).requires_grad_()
    rejected = vector(-0.8, -0.8, 0.0, -1e-20, -1e-30, 0.0, dtype=dtype).requires_grad_()
    loss = odds_ratio(chosen, rejected)
    loss.sum().backward()
    assert all(torch.isfinite(value).all() for value in (loss, chosen.grad, rejected.grad))
    assert loss[-1].item() == pytest.approx(LN2)


def test_hand_worked_bradley_terry():
    # -log sigmoid(1) = 0.313262, (-1): 1.313262, (0.5): 0.474077; the squares of the sums are 9, 9 and 1.
    chosen, rejected, zero = vector(2.0, 1.0, 0.75), vector(1.0, 2.0, 0.25), torch.zeros(3, dtype=torch.float64)
    plain = bradley_terry(chosen, rejected, margin=zero, center_rewards_coefficient=0.0)
    assert plain.tolist() == pytest.approx([0.313262, 1.313262, 0.474077], abs=5e-7)
    centred = bradley_terry(chosen, rejected, margin=zero, center_rewards_coefficient=0.01)
    assert (centred - plain).tolist() == pytest.approx([0.09, 0.09, 0.01], abs=1e-12)
    # With a margin of 2 the first two pairs are as if apart by -1 and -3: log(1 + e) and log(1 + e^3).
    margin = bradley_terry(chosen, rejected, margin=zero + 2, center_rewards_coefficient=0.0)
    assert margin[:2].tolist() == pytest.approx([1.313262, 3.048587], abs=5e-7)


def test_equal_rewards_cost_ln_2_and_push_the_answers_apart_alike():
    rewards = vector(0.7, 0.7).requires_grad_()
    loss = bradley_terry(rewards[:1], rewards[1:], margin=vector(0.0), center_rewards_coefficient=0.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(LN2, abs=1e-12)
    assert rewards.grad.tolist() == pytest.approx([-0.5, 0.5], abs=1e-12)
