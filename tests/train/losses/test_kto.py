"""KTO: hand-worked numbers and the estimate of its KL term."""

import math

import pytest
import torch

from zephyr.train.losses.kto import kl_estimate, kto


def vector(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize(
    ("beta", "desirable", "undesirable"),
    [
        (0.1, 0.487503, 0.342990),
        (0.05, 0.493750, 0.419458),
        (0.01, 0.498750, 0.483756),
        (0.5, 0.437823, 0.037327),
    ],
)
def test_hand_worked_kto(beta, desirable, undesirable):
    losses = kto(vector(2.0, -5.0), vector(1.5)[0], torch.tensor([True, False]), beta)
    assert losses.tolist() == pytest.approx([desirable, undesirable], abs=5e-7)


@pytest.mark.parametrize(
    ("beta", "chosen", "rejected"),
    [
        (0.1, 0.450166, 0.331812),
        (0.05, 0.475021, 0.413382),
        (0.01, 0.495, 0.482507),
        (0.5, 0.268941, 0.029312),
    ],
)
def test_hand_worked_terms_of_kto_pair(beta, chosen, rejected):
    ratios = vector(2.0, -5.0)
    for_chosen, for_rejected = kl_estimate(ratios[1:]), kl_estimate(ratios[:1])
    assert (for_chosen.item(), for_rejected.item()) == (0.0, 2.0)
    terms = kto(ratios, torch.stack([for_chosen, for_rejected]), torch.tensor([True, False]), beta)
    assert terms.tolist() == pytest.approx([chosen, rejected], abs=5e-7)


def test_no_digit_of_beta_is_lost():
    loss = kto(vector(2.0), vector(0.0)[0], torch.tensor([True]), 0.1)
    assert loss.item() == pytest.approx(1 / (1 + math.exp(0.2)), rel=1e-14)


def test_kl_estimate_is_a_mean_held_at_zero_without_gradient():
    ratios = vector(1.0, 4.0).requires_grad_()
    assert kl_estimate(ratios).item() == 2.5
    assert not kl_estimate(ratios).requires_grad
    assert kl_estimate(vector(1.0, -4.0)).item() == 0.0
