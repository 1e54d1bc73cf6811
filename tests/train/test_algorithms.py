"""Lion, Muon, Adafactor and schedule-free: by hand, as torch and transformers have them, sharded, resumed, averaged."""

import math

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.optimization import Adafactor as TheirAdafactor

from tests.models.architectures import small_model
from tests.slowly import slow
from tests.train.checkpoint_runs import assert_same
from tests.train.distributed_runs import on_ranks
from tests.train.optimizer_runs import SAVED_AT, STEPS, Wide, ended, fifty_steps
from tests.train.tiny_runs import pairs, tiny_job, weights
from zephyr.models.tiny import tiny_model
from zephyr.recipe.train_section import TrainSection
from zephyr.train.algorithms import (
    Adafactor,
    Lion,
    Muon,
    ScheduleFreeAdamW,
    ScheduleFreeSgd,
    averaged,
    orthogonalised,
    to_average,
)
from zephyr.train.checkpoint.checkpoint import checkpoint_folders
from zephyr.train.optimizers import build_optimizer, not_decayed
from zephyr.train.train import train

NEW = ["lion", "muon", "adafactor", "schedule_free_adamw", "schedule_free_sgd"]


def stepped(optimizer_class, start: list[float], gradients: list[list[float]], **settings) -> tuple[Tensor, object]:
    weights = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_class([{"params": [weights], "weight_decay": settings.pop("decay", 0.0)}], **settings)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weights, optimizer


def test_two_steps_of_lion_by_hand():
    moved, optimizer = stepped(Lion, [1.0, 1.0], [[2.0, -4.0], [-0.5, -4.0]], lr=0.1, betas=(0.9, 0.99), decay=0.5)
    # Signs of 0.1 g: +, -; then of 0.9 * 0.01 * 2 - 0.05 < 0 and of a negative sum. Decay takes a twentieth first.
    assert moved.tolist() == pytest.approx([(0.95 - 0.1) * 0.95 + 0.1, (0.95 + 0.1) * 0.95 + 0.1])
    assert optimizer.state[moved]["exp_avg"].tolist() == pytest.approx([0.99 * 0.02 - 0.005, -0.99 * 0.04 - 0.04])


def test_two_schedule_free_steps_by_hand():
    moved, optimizer = stepped(ScheduleFreeSgd, [1.0], [[1.0], [2.0]], lr=0.1, betas=(0.9, 0.999))
    # z: 1, 0.9, 0.7. x: 0.9, then the mean of both, 0.8. y = 0.9 x + 0.1 z.
    assert moved.tolist() == pytest.approx([0.79])
    with averaged(optimizer):
        assert moved.tolist() == pytest.approx([0.8])
    assert moved.tolist() == pytest.approx([0.79])
    to_average(optimizer)
    assert moved.tolist() == pytest.approx([0.8])
    # AdamW's first steps have size 1, and then 2 over the root of (0.001 * 0.999 + 0.004) / (1 - 0.999^2).
    moved, optimizer = stepped(ScheduleFreeAdamW, [1.0], [[1.0], [2.0]], lr=0.1, betas=(0.9, 0.999))
    second = 0.9 - 0.1 * 2 / math.sqrt(0.004999 / (1 - 0.999**2))
    to_average(optimizer)
    assert moved.tolist() == pytest.approx([(0.9 + second) / 2])


def side_by_side(ours, theirs, shapes):
    drawn = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, generator=drawn, dtype=torch.float64).requires_grad_() for shape in shapes]
    other = [one.detach().clone().requires_grad_() for one in mine]
    pair = ours(mine), theirs(other)
    for _ in range(5):
        for left, right in zip(mine, other, strict=True):
            left.grad = torch.randn(left.shape, generator=drawn, dtype=torch.float64)
            right.grad = left.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for left, right in zip(mine, other, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-14)


def test_muon_is_torchs_and_adamw_beside_it():
    side_by_side(
        lambda ps: Muon([{"params": ps, "weight_decay": 0.1, "uses_muon": True}], lr=0.01),
        lambda ps: torch.optim.Muon(ps, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        [(5, 7), (9, 4)],
    )
    side_by_side(
        lambda ps: Muon([{"params": ps, "weight_decay": 0.1}], lr=0.01),
        lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
        [(5, 7), (9,)],
    )


def test_adafactor_is_transformers():
    side_by_side(
        lambda ps: Adafactor([{"params": ps, "weight_decay": 0.1}], lr=0.01),
        lambda ps: TheirAdafactor(ps, lr=0.01, weight_decay=0.1, scale_parameter=False, relative_step=False),
        [(5, 7), (1, 4), (6,), (3, 5, 4)],
    )


def test_stacked_matrices_are_orthogonalised_each_by_itself():
    stacked = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    together = orthogonalised(stacked)
    assert together.dtype == torch.bfloat16
    for one, alone in zip(together, stacked, strict=True):
        torch.testing.assert_close(one, orthogonalised(alone), rtol=0.02, atol=0.02)
        assert all(0.6 < value < 1.3 for value in torch.linalg.svdvals(one.float()))


def test_muon_takes_hidden_matrices_alone():
    model = tiny_model("mixtral")
    optimizer = build_optimizer(model, TrainSection(learning_rate=1e-3, weight_decay=0.1, optim="muon"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_muon = {names[p] for group in optimizer.param_groups if group["uses_muon"] for p in group["params"]}
    beside = set(names.values()) - by_muon
    assert {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.gate_up_proj"} <= by_muon
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= beside
    assert all(model.get_parameter(name).ndim >= 2 for name in by_muon)


@pytest.mark.parametrize("model_type", ["mistral", "gpt_oss", "cohere2", "gpt2", "mamba"])
def test_what_is_not_decayed_is_what_transformers_names(tmp_path, model_type):
    model = tiny_model("mistral") if model_type == "mistral" else small_model(model_type)
    names = {name for name, _ in model.named_parameters()}
    theirs = Trainer(model, TrainingArguments(str(tmp_path), report_to=[])).get_decay_parameter_names(model)
    assert names - not_decayed(model) == names & {*theirs}
    if model_type == "gpt_oss":
        assert "model.layers.0.mlp.experts.down_proj_bias" in not_decayed(model)


@pytest.mark.parametrize("optim", [NEW[0], *map(slow, NEW[1:])])
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path, optim):
    fifty_steps(tmp_path, "whole", optim)
    fifty_steps(tmp_path, "cut", optim, SAVED_AT)
    fifty_steps(tmp_path, "cut", optim, STEPS)
    whole, cut = ended(tmp_path, "whole"), ended(tmp_path, "cut")
    assert whole.losses[-1] < whole.losses[0]
    assert cut.losses == whole.losses[SAVED_AT:]
    assert_same(cut.tensors, whole.tensors)


@pytest.mark.slow
@pytest.mark.parametrize("optim", NEW)
def test_two_ranks_step_as_one_and_go_on(tmp_path, optim):
    fifty_steps(tmp_path, "alone", optim)
    for until in (SAVED_AT, STEPS):
        for met in tmp_path.glob("meet-*"):
            met.unlink()
        on_ranks(2, tmp_path, fifty_steps, "together", optim, until)
    alone, together = ended(tmp_path, "alone"), ended(tmp_path, "together")
    assert together.losses == pytest.approx(alone.losses[SAVED_AT:], rel=1e-5)
    for name, start in Wide().state_dict().items():
        moved = (alone.tensors[name] - start).norm()
        assert (together.tensors[name] - alone.tensors[name]).norm() < 1e-3 * moved, name


def test_a_schedule_free_run_hands_on_the_average_of_the_best_step(tmp_path):
    held_out = [pair._replace(completions=pair.completions[::-1]) for pair in pairs()]
    every = {"save_steps": 1, "eval_steps": 1, "eval_examples": held_out, "lr_scheduler_type": "constant"}
    every |= {"reference_store": tmp_path / "reference"}
    runs = {}
    for name, steps in (("best", 6), ("short", 1)):
        watched = {"metric_for_best_model": "loss"} if name == "best" else {}
        job = tiny_job(tmp_path / name, optim="schedule_free_adamw", max_steps=steps, **every | watched)
        runs[name] = train(job), weights(job.model)
    outcome, best = runs["best"]
    # Held-out pairs the wrong way round make the first step the best.
    assert outcome.best_step == 1
    assert outcome.eval_metrics["eval_loss"] == runs["short"][0].eval_metrics["eval_loss"]
    assert_same(best, runs["short"][1])
    assert checkpoint_folders(tmp_path / "best")
