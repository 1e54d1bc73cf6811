"""Losses on pairs: hand-worked numbers to six decimals, laws, gradients, and the ends of floating point."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from zephyr.recipe.objective_section import DpoObjective, PairLossName
from zephyr.train.losses.kto import kto
from zephyr.train.losses.pairs import PAIR_LOSSES, Pairs

BETAS = (0.1, 0.05, 0.01, 0.5)
LN2 = math.log(2)

# One pair: log-probs -50 and -60, reference -52 and -55, 20 and 30 tokens. Columns are the four betas.
VECTORS = {
    "sigmoid": (0.403186, 0.533382, 0.658760, 0.029750),
    "cdpo": (0.473186, 0.568382, 0.665760, 0.379750),
    "robust": (0.315686, 0.489632, 0.650010, -0.407750),
    "hinge": (0.300000, 0.650000, 0.930000, 0.000000),
    "ipo_sum": (4.000000, 9.000000, 1849.000000, 36.000000),
    "ipo": (22.404444, 94.737778, 2473.404444, 0.537778),
    "exo_pair": (1.657292, 2.178066, 2.641024, 0.071110),
    "nca_pair": (1.234247, 1.304565, 1.369026, 1.009337),
    "bco_pair": (1.072216, 1.220336, 1.351657, 0.392151),
    "sppo_hard": (9.000000, 89.000000, 4329.000000, 17.000000),
    "apo_zero": (0.827707, 0.912844, 0.982503, 0.344800),
    "apo_down": (0.881646, 0.938362, 0.987507, 0.760371),
    "discopop": (0.496585, 0.704532, 0.878265, 0.030197),
    "sigmoid_norm": (0.679903, 0.686503, 0.691815, 0.628701),
    "kto_pair": (0.390989, 0.444202, 0.488754, 0.149127),
}
OTHER_SETTINGS = {
    "cdpo": {"label_smoothing": 0.1},
    "robust": {"label_smoothing": 0.1},
    "bco_pair": {"bco_delta": 0.0},
}


def vector(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def the_pair(*, averaged=False, dtype=torch.float64):
    chosen, rejected = (20, 30) if averaged else (1, 1)
    sums = (-50 / chosen, -60 / rejected, -52 / chosen, -55 / rejected)
    return Pairs(*(vector(value, dtype=dtype) for value in sums))


def settings_of(name, beta):
    loss_type = name if name in PAIR_LOSSES else "sigmoid"
    return DpoObjective(beta=beta, loss_type=loss_type, **OTHER_SETTINGS.get(name, {}))


def random_pairs(num=6, dtype=torch.float64):
    return Pairs(*(-50 + 10 * torch.randn(4, num, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("name", VECTORS)
def test_hand_worked_pair(name, column, dtype):
    loss = PAIR_LOSSES["sigmoid" if name == "cdpo" else name]
    value = loss.function(the_pair(averaged=loss.averaged, dtype=dtype), settings_of(name, BETAS[column]))
    assert value.dtype == dtype
    tolerance = 5e-7 if dtype == torch.float64 else 1e-6 * max(1.0, abs(VECTORS[name][column]))
    assert value.item() == pytest.approx(VECTORS[name][column], abs=tolerance)


def test_the_table_covers_the_recipe():
    assert set(PAIR_LOSSES) == set(get_args(PairLossName))


def test_every_pair_loss_has_a_vector_or_is_made_of_one_that_has():
    assert set(PAIR_LOSSES) - set(VECTORS) == {"aot", "aot_unpaired"}


@pytest.mark.parametrize(
    ("beta", "chosen", "rejected", "margin"),
    [(0.1, 0.2, -0.5, 0.7), (0.05, 0.1, -0.25, 0.35), (0.01, 0.02, -0.05, 0.07), (0.5, 1.0, -2.5, 3.5)],
)
def test_hand_worked_rewards(beta, chosen, rejected, margin):
    pair = the_pair()
    rewards = (beta * pair.chosen_ratios, beta * pair.rejected_ratios, beta * pair.margins)
    assert [reward.item() for reward in rewards] == pytest.approx([chosen, rejected, margin])


def test_gradient_of_dpo():
    pair = the_pair()
    chosen, rejected = pair.chosen.requires_grad_(), pair.rejected.requires_grad_()
    PAIR_LOSSES["sigmoid"].function(pair, DpoObjective(beta=0.1)).backward()
    assert chosen.grad.item() == pytest.approx(-0.033181, abs=5e-7)
    assert rejected.grad.item() == pytest.approx(0.033181, abs=5e-7)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradients_are_the_slopes(name):
    settings = settings_of(name, 0.1)
    # Terms that carry no gradient by definition are held fixed: a batch with a negative mean has KL 0.
    pairs = Pairs(*(value - shift for value, shift in zip(random_pairs(), (40, 40, 0, 0), strict=True)))
    if name == "bco_pair":
        settings = settings.model_copy(update={"bco_delta": 0.3})
    inputs = [value.clone().requires_grad_() for value in pairs[:2]]
    torch.autograd.gradcheck(
        lambda chosen, rejected: PAIR_LOSSES[name].function(Pairs(chosen, rejected, *pairs[2:]), settings),
        inputs,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", LN2),
        ("sigmoid_norm", LN2),
        ("robust", LN2),
        ("aot", LN2),
        ("aot_unpaired", LN2),
        ("hinge", 1.0),
        ("ipo", 25.0),
        ("ipo_sum", 25.0),
        ("nca_pair", 2 * LN2),
        ("bco_pair", 2 * LN2),
        ("apo_zero", 1.0),
        ("apo_down", 1.0),
        ("kto_pair", 0.5),
        ("sppo_hard", 50.0),
        ("discopop", (LN2 + 1) / 2),
        ("exo_pair", 0.5 * (2 * math.log(0.5) - math.log(0.999) - math.log(0.001))),
    ],
)
def test_start_where_policy_is_reference(name, expected):
    pairs = random_pairs()
    pairs = Pairs(pairs.chosen, pairs.rejected, pairs.chosen, pairs.rejected)
    losses = PAIR_LOSSES[name].function(pairs, settings_of(name, 0.1))
    # robust's smoothing is 0.1 here: at h = 0 it makes no difference, as for cDPO.
    assert_close(losses, torch.full_like(losses, expected))


def test_swapping_the_completions_negates_the_margin():
    pairs = random_pairs()
    swapped = Pairs(pairs.rejected, pairs.chosen, pairs.ref_rejected, pairs.ref_chosen)
    assert_close(swapped.margins, -pairs.margins)
    there, back = (PAIR_LOSSES["sigmoid"].function(p, DpoObjective(beta=0.1)) for p in (pairs, swapped))
    assert_close(back - there, 0.1 * pairs.margins)


def test_both_falling_alike_is_no_progress():
    pairs = Pairs(vector(-52.0), vector(-57.0), vector(-50.0), vector(-55.0))
    assert PAIR_LOSSES["sigmoid"].function(pairs, DpoObjective(beta=0.1)).item() == pytest.approx(LN2)


@pytest.mark.parametrize("name", [name for name, loss in PAIR_LOSSES.items() if not loss.coupled])
def test_each_pair_stands_alone(name):
    pairs, settings = random_pairs(), settings_of(name, 0.1)
    together = PAIR_LOSSES[name].function(pairs, settings)
    alone = [PAIR_LOSSES[name].function(Pairs(*(x[i : i + 1] for x in pairs)), settings) for i in range(6)]
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", [name for name, loss in PAIR_LOSSES.items() if loss.coupled])
def test_coupled_losses_do_not(name):
    pairs = random_pairs()
    together = PAIR_LOSSES[name].function(pairs, DpoObjective(beta=0.1)).sum()
    alone = sum(
        PAIR_LOSSES[name].function(Pairs(*(x[i : i + 1] for x in pairs)), DpoObjective(beta=0.1)).sum()
        for i in range(6)
    )
    assert abs(together - alone) > 1e-3


def test_aot_compares_by_rank():
    # Policy log-ratios 3, 1 against the reference's 0, 2: ranks give margins 1 - 0 and 3 - 2, pairs 3 and -1.
    pairs = Pairs(vector(-1.0, -2.0), vector(-4.0, -3.0), vector(-5.0, -5.0), vector(-5.0, -7.0))
    losses = PAIR_LOSSES["aot"].function(pairs, DpoObjective(beta=1.0))
    assert_close(losses, -F.logsigmoid(vector(1.0, 1.0)))
    # d_c = 4, 3 and d_r = 1, 4: sorted 3 - 1 and 4 - 4.
    losses = PAIR_LOSSES["aot_unpaired"].function(pairs, DpoObjective(beta=1.0))
    assert_close(losses, -F.logsigmoid(vector(2.0, 0.0)))


def test_aot_of_one_pair_is_dpo():
    for name in ("aot", "aot_unpaired"):
        value = PAIR_LOSSES[name].function(the_pair(), DpoObjective(beta=0.1))
        assert value.item() == pytest.approx(0.403186, abs=5e-7)


def test_bco_shifts_by_the_mean_reward_without_gradient():
    # One pair has rewards 0.2 and -0.5, mean -0.15: both terms are -log s(0.35).
    loss = PAIR_LOSSES["bco_pair"].function(the_pair(), DpoObjective(beta=0.1))
    assert loss.item() == pytest.approx(2 * 0.533382, abs=1e-6)
    # Rewards 3 and 2 chosen, 1 and -2 rejected have the mean 1. (One pair alone has no slope by its shift.)
    chosen = vector(3.0, 2.0).requires_grad_()
    pairs = Pairs(chosen, vector(1.0, -2.0), vector(0.0, 0.0), vector(0.0, 0.0))
    PAIR_LOSSES["bco_pair"].function(pairs, DpoObjective(beta=1.0)).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-1 / (1 + math.exp(2)), -1 / (1 + math.exp(1))])


def test_kto_pair_has_no_gradient_through_the_estimates():
    pairs = Pairs(*(value.requires_grad_() for value in random_pairs()))
    PAIR_LOSSES["kto_pair"].function(pairs, DpoObjective(beta=0.1)).sum().backward()
    desirable = torch.ones(6, dtype=torch.bool)
    chosen = pairs.chosen.detach().requires_grad_()
    kl = (pairs.rejected - pairs.ref_rejected).mean().clamp(min=0).detach()
    (kto(chosen - pairs.ref_chosen.detach(), kl, desirable, 0.1).sum() / 2).backward()
    assert_close(pairs.chosen.grad, chosen.grad)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_are_finite_far_out(name):
    chosen = vector(-3000.0, -1.0, -1500.0, dtype=torch.float32).requires_grad_()
    pairs = Pairs(chosen, chosen.detach().flip(0), *torch.full((2, 3), -700.0))
    loss = PAIR_LOSSES[name].function(pairs, settings_of(name, 0.5))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()
