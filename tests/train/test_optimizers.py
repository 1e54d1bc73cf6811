"""Learning rates: the hand-worked numbers, and transformers' own schedules step by step."""

from typing import get_args

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler

from zephyr.models.adapters import add_lora
from zephyr.models.tiny import tiny_model
from zephyr.recipe.steps import count_steps
from zephyr.recipe.train_section import LoraSection, SchedulerName, TrainSection
from zephyr.train.checkpoint.checkpoint import Progress
from zephyr.train.optimizers import SCHEDULES, build_optimizer, learning_rate_at, on_plateau, set_learning_rate

THEIRS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"power": 2.0},
    "warmup_stable_decay": {"num_decay_steps": 5},
}


def rate_at(step, name, peak, warmup, total, **options):
    train = TrainSection(learning_rate=peak, lr_scheduler_type=name, warmup_steps=warmup, max_steps=total, **options)
    return learning_rate_at(step, train, count_steps(train, 1))


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
        ("cosine_with_restarts", 2.0, 10, 110, {5: 1.0, 10: 2.0, 60: 1.0, 110: 0.0}),
        ("polynomial", 1e-3, 0, 100, {0: 1e-3, 50: 5.0005e-4, 100: 1e-7}),
        ("warmup_stable_decay", 4.0, 2, 100, {1: 2.0, 2: 4.0, 90: 4.0, 95: 2.0, 100: 0.0}),
        ("cosine_warmup_with_min_lr", 1.0, 4, 104, {0: 0.25, 3: 1.0, 53: 0.55, 103: 0.1}),
    ],
)
def test_hand_worked_rates(name, peak, warmup, total, expected):
    rates = {step: rate_at(step, name, peak, warmup, total) for step in expected}
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize(
    ("name", "warmup"),
    [
        (name, warmup)
        for name in SCHEDULES
        for warmup in (0, 1, 7, 14)
        if name != "reduce_lr_on_plateau" and (name != "constant" or not warmup)
    ],
)
def test_equal_to_transformers_at_every_step(name, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=20, scheduler_specific_kwargs=THEIRS.get(name)
    )
    # The last of theirs is the rate after the last step, which nobody uses.
    for step in range(20 if name == "cosine_warmup_with_min_lr" else 21):
        ours = rate_at(step, name, 1.0, warmup, 20, num_cycles=3, power=2.0, num_decay_steps=5)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("patience", [0, 2])
def test_a_plateau_is_torchs(greater, patience):
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode="max" if greater else "min", factor=0.5, patience=patience, eps=0
    )
    train = TrainSection(learning_rate=1.0, plateau_factor=0.5, plateau_patience=patience, greater_is_better=greater)
    progress = Progress(step=0)
    for value in (3.0, 2.9, 2.8999, 2.95, 2.9, 2.9, 3.2, 2.5, 2.6, 2.6, 2.6, 2.6, 2.4999, 3.3, 3.3):
        scheduler.step(value)
        progress = on_plateau(progress, value, train)
        assert progress.lr_factor == theirs.param_groups[0]["lr"], value
    assert progress.lr_factor < 1


@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_the_first_step_moves_the_b_matrices_of_loraplus_by_the_ratio(ratio):
    lora = LoraSection(r=2, loraplus_lr_ratio=ratio)
    train = TrainSection(learning_rate=1e-3, adam_epsilon=1e-30)
    model = add_lora(tiny_model("mistral"), lora)
    optimizer = build_optimizer(model, train, lora)
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    for name, old in before.items():
        model.get_parameter(name).grad = torch.ones_like(old)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    # Adam's first step is the learning rate times the gradient's sign.
    moved = {name: (old - model.get_parameter(name)).detach() for name, old in before.items()}
    for name, move in moved.items():
        torch.testing.assert_close(
            move, torch.full_like(move, 1e-3 * (ratio if "lora_B" in name else 1)), rtol=1e-3, atol=1e-8
        )
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio)
    assert {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]} == {
        id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(optimizer.param_groups) == (1 if ratio == 1 else 2)


def test_the_table_covers_the_recipe():
    assert set(SCHEDULES) == set(get_args(SchedulerName))
