"""Learning rates: the hand-worked numbers, transformers' own schedules step by step, and the messages."""

import pytest
import torch
from transformers import get_scheduler

from zephyr.errors import RecipeError
from zephyr.train.schedules import SCHEDULES, Schedule, count_warmup_steps, learning_rate_at


@pytest.mark.parametrize(
    ("name", "peak", "warmup", "total", "expected"),
    [
        ("linear", 5e-7, 582, 5811, {0: 0, 100: 8.591065e-08, 582: 5e-7, 2000: 3.644100e-07, 5811: 0}),
        ("cosine", 5e-7, 48, 478, {24: 2.5e-7, 48: 5e-7, 239: 2.936119e-07, 478: 0}),
        ("inverse_sqrt", 5e-6, 100, 711, {50: 2.5e-6, 200: 3.535534e-06, 400: 2.5e-6, 711: 1.875147e-06}),
        ("cosine_with_min_lr", 1.0, 0, 100, {0: 1.0, 50: 0.55, 100: 0.1}),
        ("constant_with_warmup", 3.0, 3, 10, {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0, 10: 3.0}),
        ("constant", 3.0, 0, 10, {0: 3.0, 10: 3.0}),
        ("inverse_sqrt", 1.0, 0, 100, {0: 1.0, 30_000: 0.5}),
    ],
)
def test_hand_worked_rates(name, peak, warmup, total, expected):
    schedule = Schedule(name=name, total_steps=total, warmup_steps=warmup)
    rates = {step: learning_rate_at(step, schedule, peak) for step in expected}
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize(
    ("name", "warmup"),
    [(name, warmup) for name in SCHEDULES for warmup in (0, 1, 7, 19) if name != "constant" or not warmup],
)
def test_equal_to_transformers_at_every_step(name, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = {"min_lr_rate": 0.1} if name == "cosine_with_min_lr" else None
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=20, scheduler_specific_kwargs=options
    )
    schedule = Schedule(name=name, total_steps=20, warmup_steps=warmup)
    for step in range(21):
        assert schedule.factor(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()


def test_warm_up_by_ratio_is_rounded_up():
    assert count_warmup_steps(5811, warmup_ratio=0.1) == 582
    assert count_warmup_steps(478, warmup_ratio=0.1) == 48
    assert count_warmup_steps(10, warmup_ratio=0.0) == 0
    assert count_warmup_steps(10, warmup_steps=3) == 3
    assert count_warmup_steps(10) == 0


def test_warm_up_is_given_once_and_as_a_share():
    with pytest.raises(RecipeError, match=r"^warm-up: it is given twice, got warmup_ratio 0.1 and warmup_st"):
        count_warmup_steps(10, warmup_ratio=0.1, warmup_steps=1)
    with pytest.raises(RecipeError, match=r"^warmup_ratio: must lie between 0 and 1, got 10"):
        count_warmup_steps(10, warmup_ratio=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cosin"}, "lr_scheduler_type: there is no schedule 'cosin'; did you mean 'cosine'?"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        (
            {"name": "constant", "warmup_steps": 2},
            "constant has no warm-up (constant_with_warmup has), got warmup_steps 2",
        ),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio must lie between 0 and 1, got 1.5"),
        ({"total_steps": 0, "warmup_steps": -1}, "total_steps must be at least 1, got 0; warmup_steps must"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(RecipeError) as caught:
        Schedule(**({"name": "linear", "total_steps": 10} | settings))
    assert message in str(caught.value)
