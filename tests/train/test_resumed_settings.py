"""Runs whose settings have a state of their own end alike, stopped or not, and in any cut of their batches."""

import pytest

from tests.slowly import slow
from tests.train.checkpoint_runs import assert_same
from tests.train.tiny_runs import column, examples_for, logged, pairs, tiny_job, weights
from zephyr.errors import RecipeError
from zephyr.models.adapters import add_lora
from zephyr.models.tiny import tiny_model
from zephyr.recipe.train_section import LoraSection
from zephyr.train.train import train

WRONG_WAY_ROUND = [pair._replace(completions=pair.completions[::-1]) for pair in pairs(6, seed=1)]
PLATEAU = {
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "plateau_patience": 0,
    "eval_steps": 1,
    "eval_examples": WRONG_WAY_ROUND,
}

SCHEDULE_FREE = {
    "optim": "schedule_free_adamw",
    "lr_scheduler_type": "constant",
    "eval_steps": 2,
    "eval_examples": pairs(4),
}


def made(settings):
    if "model" not in settings:
        return settings
    lora = LoraSection(r=4, lora_dropout=0.3)
    return {"model": add_lora(tiny_model("mistral"), lora), "activation_checkpointing": True}


@pytest.mark.parametrize(
    "settings",
    [
        {"neftune_noise_alpha": 5.0},
        slow({"objective": "kto", "reference_sync_steps": 2}),
        slow(SCHEDULE_FREE),
        {"model": "lora"},
        slow({"optim": "muon", "weight_decay": 0.1}),
        slow(PLATEAU),
    ],
)
def test_a_stopped_run_ends_as_an_undisturbed_one(tmp_path, settings):
    straight, cut, resumed = (
        tiny_job(tmp_path / name, save_steps=3, **made(settings)) for name in ("one", "two", "two")
    )
    train(straight)
    train(cut)
    (tmp_path / "two" / "checkpoint-6").rename(tmp_path / "elsewhere")
    train(resumed)
    assert logged(tmp_path / "one") == logged(tmp_path / "two")
    assert_same(weights(straight.model), weights(resumed.model))


def test_a_plateau_makes_the_learning_rate_smaller(tmp_path):
    train(tiny_job(tmp_path, **PLATEAU))
    losses, rates = column(tmp_path, "eval_loss"), column(tmp_path, "learning_rate")
    assert min(losses) == losses[0]
    # The first evaluation is the best, and each later one no better.
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7])


def test_a_plateau_without_evaluations_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="lr_scheduler_type: there are no evaluation examples; give some"):
        train(tiny_job(tmp_path, lr_scheduler_type="reduce_lr_on_plateau"))


def test_weights_by_the_policy_are_the_same_in_any_cut(tmp_path):
    ends = []
    for name, max_tokens, weighs in (("cut", 60, True), ("whole", 10_000, True), ("plain", 10_000, False)):
        settings = {"precision": "float64", "max_tokens_per_micro_batch": max_tokens, "max_steps": 2, "eval_steps": 1}
        job = tiny_job(tmp_path / name, use_weighting=weighs, eval_examples=pairs(4, seed=2), **settings)
        ends.append(train(job).eval_metrics["eval_loss"])
    assert ends[0] == pytest.approx(ends[1], abs=1e-7)
    assert ends[0] < 0.5 * ends[2]


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_noise_is_the_same_in_any_cut_and_absent_from_evaluations(tmp_path, objective):
    ends = []
    for name, max_tokens, alpha in (("cut", 60, 20.0), ("whole", 10_000, 20.0), ("plain", 10_000, None)):
        job = tiny_job(
            tmp_path / name,
            objective,
            neftune_noise_alpha=alpha,
            precision="float64",
            max_tokens_per_micro_batch=max_tokens,
            eval_steps=1,
            max_steps=2,
            eval_examples=examples_for(objective, 4, seed=2),
            # Gradients that are 0 but for rounding are not to be scaled up by Adam.
            adam_epsilon=1e-4,
        )
        train(job)
        ends.append(weights(job.model))
    cut, whole, plain = (column(tmp_path / name, "eval_loss") for name in ("cut", "whole", "plain"))
    assert cut == pytest.approx(whole, abs=1e-7)
    assert max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0]) < 1e-6
    assert max(float((ends[0][name] - ends[2][name]).abs().max()) for name in ends[0]) > 1e-5
    assert whole != plain


def test_noise_reaches_a_model_with_adapters(tmp_path):
    runs = []
    for name, alpha in (("noisy", 20.0), ("plain", None)):
        job = tiny_job(
            tmp_path / name, model=add_lora(tiny_model("mistral"), LoraSection(r=4)), neftune_noise_alpha=alpha
        )
        runs.append(train(job).train_metrics["loss"])
    assert runs[0] != runs[1]
