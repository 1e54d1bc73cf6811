"""Tiny runs from a job to a trained model: what they log, keep and leave alone."""

import logging
import math
import os
import shutil
import signal
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.models.exact_norms import float64_model
from tests.slowly import slow
from tests.train.checkpoint_runs import assert_same
from tests.train.test_outcome import saved
from tests.train.tiny_runs import OPTIONS, column, examples_for, logged, pairs, tiny_job, weights
from zephyr.errors import CheckpointError, RecipeError
from zephyr.models.adapters import add_lora
from zephyr.models.batch_scoring import forest_of
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.recipe.steps import count_steps
from zephyr.recipe.train_section import LoraSection, OptimizerName, Precision, TrackerName
from zephyr.train.checkpoint.checkpoint import checkpoint_folders
from zephyr.train.distributed import PRECISION_DTYPES
from zephyr.train.objectives import Scored
from zephyr.train.optimizers import OPTIMIZER_BUILDERS
from zephyr.train.run import start
from zephyr.train.step import step_indices
from zephyr.train.tracker import TRACKERS
from zephyr.train.train import train

ALWAYS = {"loss", "grad_norm", "learning_rate", "epoch"}
# What the published model cards tell of a preference run.
PUBLISHED = {f"{of}/{which}" for of in ("rewards", "logps", "logits") for which in ("chosen", "rejected")} | {
    "rewards/accuracies",
    "rewards/margins",
}


def logps_alone(model, example, objective):
    """The log-probs of an example's sequences, each scored by itself."""
    scorer = ForestScorer(model)
    with torch.no_grad():
        return torch.cat([scorer(forest_of([[one]], 1)).logps for one in objective.sequences(example)])


@pytest.mark.parametrize("objective", OPTIONS)
def test_every_objective_trains_and_logs_the_published_names(tmp_path, objective):
    held_out = examples_for(objective, 6, seed=1)
    job = tiny_job(tmp_path, objective, eval_steps=3, eval_examples=held_out)
    before = weights(job.model)
    outcome = train(job)
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == pytest.approx([n / 3 for n in range(1, 7)])
    wanted = ALWAYS | ({"nll_loss"} if objective == "sft" else PUBLISHED)
    if objective == "kto":  # nothing is compared, so nothing can be right
        wanted -= {"rewards/accuracies"}
    for line in lines:
        evaluated = {name.removeprefix("eval_") for name in line if name.startswith("eval_")}
        assert wanted <= line.keys()
        assert evaluated == (set(line) & (evaluated | {"loss"}) if line["step"] in (3, 6) else set())
        assert (wanted - ALWAYS | {"loss"} <= evaluated) == (line["step"] in (3, 6))
        assert all(math.isfinite(value) for value in line.values())
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert outcome.step == 6
    assert {"step": 6, **outcome.train_metrics, **outcome.eval_metrics} == lines[-1]
    assert [name for name, tensor in weights(job.model).items() if torch.equal(tensor, before[name])] == []


# Worked out once in float64 with norms of float64, so that they hold on every machine.
GOLDEN = {
    "sft": [5.457393580, 5.549017580, 5.364195961, 5.206881665, 5.151433293, 5.150232079],
    "dpo": [0.693147181, 0.693147181, 0.692490023, 0.589689602, 0.557914188, 0.541401515],
    "orpo": [5.562273386, 5.534882637, 5.598193500, 5.383564151, 5.278277424, 5.348634260],
}


@pytest.mark.parametrize("objective", GOLDEN)
def test_losses_are_golden(tmp_path, objective):
    model = float64_model("mistral")
    train(tiny_job(tmp_path, objective, model=model, precision="float64", warmup_ratio=0.3))
    assert column(tmp_path, "loss") == pytest.approx(GOLDEN[objective], abs=1e-6)


def rate(name, t, w, total):
    """FACTS of transformers' schedules as one formula, a peak of 1; t counts from 0."""
    if t < w:
        return t / w
    cosine = 0.5 * (1 + math.cos(math.pi * (t - w) / (total - w)))
    return {
        "linear": (total - t) / (total - w),
        "cosine": cosine,
        "cosine_with_min_lr": cosine * 0.9 + 0.1,
        "inverse_sqrt": math.sqrt(w / t) if w else 1.0,
        "constant_with_warmup": 1.0,
    }[name]


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_with_min_lr", "inverse_sqrt", "constant_with_warmup"])
def test_logged_learning_rates_are_those_of_the_formula(tmp_path, name):
    job = tiny_job(tmp_path, "sft", lr_scheduler_type=name, warmup_ratio=0.2, max_steps=12, train_batch_size=2)
    train(job)
    expected = [1e-3 * rate(name, t, 3, 12) for t in range(12)]  # ceil(0.2 * 12) = 3
    assert column(tmp_path, "learning_rate") == pytest.approx(expected, rel=1e-12)


def test_a_step_at_rate_zero_changes_nothing_and_the_next_does(tmp_path):
    one, two = (tiny_job(tmp_path / str(n), warmup_steps=1, max_steps=2, save_steps=1) for n in (1, 2))
    before = weights(one.model)
    train(one)
    assert column(tmp_path / "1", "learning_rate") == [0.0, 1e-3]
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(one.model).items())
    shutil.copytree(tmp_path / "1/checkpoint-1", tmp_path / "2/checkpoint-1")
    assert start(two).progress.step == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(two.model).items())


def test_evaluation_equals_scoring_each_sequence_alone(tmp_path):
    held_out = pairs(5, seed=3)
    job = tiny_job(tmp_path, eval_examples=held_out)
    objective = job.objective
    reference = torch.stack([logps_alone(tiny_model("mistral"), one, objective) for one in held_out])
    outcome = train(job)
    policy = torch.stack([logps_alone(job.model, one, objective) for one in held_out])
    rewards = 0.1 * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    means = {
        "eval_loss": -torch.nn.functional.logsigmoid(margins).mean(),
        "eval_rewards/chosen": rewards[:, 0].mean(),
        "eval_rewards/margins": margins.mean(),
        "eval_rewards/accuracies": (margins > 0).double().mean(),
        "eval_logps/rejected": policy[:, 1].mean(),
    }
    found = {name: outcome.eval_metrics[name] for name in means}
    assert found == pytest.approx({name: float(mean) for name, mean in means.items()}, abs=1e-5)
    # Without eval_steps there is one evaluation, at the end.
    assert [line["step"] for line in logged(tmp_path) if "eval_loss" in line] == [6]


def test_samples_are_taken_at_evaluations_and_logged(tmp_path):
    asked = []

    def sample(step):
        asked.append(step)
        return {"generations/mean_tokens": 10.0 + step}

    train(tiny_job(tmp_path, eval_steps=2, eval_examples=pairs(2), sample=sample))
    assert asked == [2, 4, 6]
    assert column(tmp_path, "generations/mean_tokens") == [12.0, 14.0, 16.0]


def test_a_line_of_several_steps_is_their_mean(tmp_path):
    train(tiny_job(tmp_path / "each"))
    train(tiny_job(tmp_path / "some", logging_steps=4))
    each, some = logged(tmp_path / "each"), logged(tmp_path / "some")
    assert [line["step"] for line in some] == [4, 6]
    for name in ("loss", "rewards/margins", "logps/chosen", "rewards/accuracies"):
        means = [sum(line[name] for line in part) / len(part) for part in (each[:4], each[4:])]
        assert [line[name] for line in some] == pytest.approx(means, rel=1e-12)
    for name in ("learning_rate", "grad_norm", "epoch"):
        assert [line[name] for line in some] == [each[3][name], each[5][name]]


def test_a_line_that_spans_a_restart_is_the_mean_of_all_its_steps(tmp_path):
    train(tiny_job(tmp_path / "straight", logging_steps=4, save_steps=3))
    train(tiny_job(tmp_path / "resumed", logging_steps=4, save_steps=3))
    (tmp_path / "resumed" / "checkpoint-6").rename(tmp_path / "elsewhere")
    train(tiny_job(tmp_path / "resumed", logging_steps=4, save_steps=3))
    assert logged(tmp_path / "resumed") == logged(tmp_path / "straight")


def test_a_run_that_only_hands_on_its_model_again_says_the_same(tmp_path):
    ended = train(tiny_job(tmp_path, eval_steps=2, eval_examples=pairs(4, seed=1)))
    again = train(tiny_job(tmp_path, eval_steps=2, eval_examples=pairs(4, seed=1)))
    assert again == ended


def test_the_clock_saves_too_and_changes_nothing(tmp_path):
    by_clock = tiny_job(tmp_path / "clock", save_seconds=1.0e-9, save_total_limit=9)
    train(by_clock)
    assert 1 in saved(tmp_path / "clock")
    plain = tiny_job(tmp_path / "plain")
    train(plain)
    assert_same(weights(by_clock.model), weights(plain.model))
    assert saved(tmp_path / "plain") == [6]


def test_an_unknown_best_metric_is_named(tmp_path):
    with pytest.raises(
        RecipeError, match=r"no evaluation gives 'rewards/margin'; did you mean 'eval_rewards/margins'\?"
    ):
        train(tiny_job(tmp_path, eval_examples=pairs(2), metric_for_best_model="rewards/margin"))


def test_evaluations_that_cannot_happen_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="eval_steps and metric_for_best_model: there are no evaluation examples"):
        train(tiny_job(tmp_path, eval_steps=2, metric_for_best_model="loss"))


def test_a_finished_run_is_found_finished(tmp_path):
    job = tiny_job(tmp_path, save_steps=2)
    train(job)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoint-*/*")}
    lines = logged(tmp_path)
    again = tiny_job(tmp_path, save_steps=2)
    outcome = train(again)
    assert outcome.step == 6
    assert logged(tmp_path) == lines
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoint-*/*")} == files
    assert all(torch.equal(tensor, weights(job.model)[name]) for name, tensor in weights(again.model).items())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"examples": pairs(seed=9)}, "data_hash"),
        slow({"beta": 0.2}, "recipe_hash"),
        ({"seed": 7}, "recipe_hash"),
        slow({"model": tiny_model("mistral", seed=1)}, "model_hash"),
        ({"reference": tiny_model("mistral", seed=1)}, "model_hash"),
    ],
)
def test_another_run_does_not_go_on_in_the_folder(tmp_path, changes, field):
    train(tiny_job(tmp_path))
    lines = logged(tmp_path)
    with pytest.raises(CheckpointError, match=f"identity.{field} is "):
        train(tiny_job(tmp_path, **changes))
    assert logged(tmp_path) == lines


def test_what_changes_no_step_may_change_on_the_way(tmp_path):
    train(tiny_job(tmp_path, save_steps=4, logging_steps=2))
    last = tmp_path / "checkpoint-6"
    last.rename(tmp_path / "elsewhere")
    outcome = train(tiny_job(tmp_path, logging_steps=1, eval_examples=pairs(2), max_tokens_per_micro_batch=400))
    assert outcome.step == 6
    assert [line["step"] for line in logged(tmp_path)] == [2, 4, 5, 6]


def losses(folder: Path, objective: str = "dpo", **changes: object) -> list[float]:
    train(tiny_job(folder, objective, **changes))
    return column(folder, "loss")


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "checkpointed", activation_checkpointing=True) == plain
    assert losses(tmp_path / "second", activation_checkpointing=2) == plain


@pytest.mark.slow
def test_compiling_changes_only_rounding(tmp_path):
    plain, compiled = (
        losses(tmp_path / f"{compiles}", model=tiny_model("mistral", layers=1), compile=compiles)
        for compiles in (False, True)
    )
    assert compiled == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(("precision", "within"), [("bf16", 0.005), ("pure_bf16", 0.06)])
@pytest.mark.parametrize("objective", ["dpo", slow("sft")])
def test_half_precision_stays_near(tmp_path, precision, within, objective):
    exact = losses(tmp_path / "exact", objective)
    job = tiny_job(tmp_path / "half", objective, precision=precision)
    train(job)
    assert column(tmp_path / "half", "loss") == pytest.approx(exact, abs=within)
    assert column(tmp_path / "half", "loss") != exact
    kept_in = torch.float32 if precision == "bf16" else torch.bfloat16
    assert {tensor.dtype for tensor in job.model.parameters()} == {kept_in}


def test_weights_in_bfloat16_leave_the_rotary_frequencies_in_float32(tmp_path):
    """A frequency rounded to bfloat16 is off by 2^-9: a thousand tokens later the angle is off by two radians."""
    job = tiny_job(tmp_path, "sft", precision="pure_bf16", max_steps=1)
    before = job.model.model.rotary_emb.inv_freq.clone()
    train(job)
    after = job.model.model.rotary_emb.inv_freq
    assert after.dtype == torch.float32
    assert torch.equal(after, before)


def test_sigterm_saves_the_step_at_work_and_the_same_job_goes_on_from_there(tmp_path):
    kept = {"save_steps": None, "save_seconds": None, "eval_examples": examples_for("dpo", 2, seed=1), "eval_steps": 2}

    untouched = train(tiny_job(tmp_path / "whole", **kept))

    def terminate(step):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(SystemExit) as ended:
        train(tiny_job(tmp_path / "ended", sample=terminate, **kept))
    assert ended.value.code == 143
    assert [folder.name for folder in checkpoint_folders(tmp_path / "ended")] == ["checkpoint-2"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = train(tiny_job(tmp_path / "ended", **kept))
    assert resumed.step == untouched.step
    assert column(tmp_path / "ended", "loss") == column(tmp_path / "whole", "loss")


def test_rmsprop_takes_its_first_step_by_the_sign(tmp_path):
    """Its mean square starts as a hundredth of the square, so the step is ten learning rates wherever it points."""
    job = tiny_job(tmp_path, "sft", optim="rmsprop", learning_rate=1e-4, max_steps=1)
    before = weights(job.model)
    train(job)
    moved = [(tensor - before[name]).abs() for name, tensor in weights(job.model).items()]
    flat = torch.cat([tensor.flatten() for tensor in moved])
    assert float(flat.max()) <= 1.01e-3
    # Rows of the embedding that no token asked for have no gradient.
    assert float((flat[flat > 0] > 0.99e-3).double().mean()) > 0.95


def test_the_table_of_optimizers_covers_the_recipe():
    assert set(OPTIMIZER_BUILDERS) == set(get_args(OptimizerName))
    assert set(TRACKERS) == set(get_args(TrackerName))
    assert set(PRECISION_DTYPES) == set(get_args(Precision))


# References


def test_adapters_train_alone_and_their_reference_is_the_model_without_them(tmp_path, caplog):
    model = add_lora(tiny_model("mistral"), LoraSection(r=4))
    before = weights(model)
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(tiny_job(tmp_path, model=model, learning_rate=1e-2, save_steps=3))
    assert "reference: the policy with its adapters off, weights " in caplog.text
    moved = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert column(tmp_path, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert column(tmp_path, "loss")[-1] < 0.6
    # What the log says of the end is what the adapters make of the model that is their reference.
    kept = tiny_job(tmp_path / "kept", model=tiny_model("mistral"))
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(kept)
    weights_of = [line.split("weights ")[1] for line in caplog.text.splitlines() if "reference: " in line]
    assert weights_of[0] == weights_of[1]


def test_adapters_go_on_from_a_checkpoint(tmp_path):
    straight, cut, resumed = (add_lora(tiny_model("mistral"), LoraSection(r=4), seed=n) for n in (0, 0, 1))
    train(tiny_job(tmp_path / "straight", model=straight))
    train(tiny_job(tmp_path / "resumed", model=cut, save_steps=2))
    (tmp_path / "resumed" / "checkpoint-6").rename(tmp_path / "elsewhere")
    train(tiny_job(tmp_path / "resumed", model=resumed, save_steps=2))
    found = weights(resumed)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(straight).items())
    assert logged(tmp_path / "resumed") == logged(tmp_path / "straight")


def test_the_reference_scores_what_the_steps_draw_and_no_more(tmp_path):
    held_out = pairs(3, seed=9)
    whole = start(tiny_job(tmp_path / "whole", eval_examples=held_out, num_train_epochs=1)).ref_logps
    short = tiny_job(tmp_path / "short", eval_examples=held_out, max_steps=1, self_checks=False)
    drawn = step_indices(count_steps(short.settings, 24), 0, seed=42)
    ref_logps = start(short).ref_logps
    read = [*sorted(drawn), 24, 25, 26]
    torch.testing.assert_close(ref_logps[read], whole[read])
    assert ref_logps.isfinite().all(dim=1).nonzero().flatten().tolist() == read
    assert whole.isfinite().all()
    train(short)
    assert math.isfinite(column(tmp_path / "short", "eval_loss")[0])


def test_another_model_can_be_the_reference(tmp_path, caplog):
    other = tiny_model("mistral", seed=1)
    kept = weights(other)
    job = tiny_job(tmp_path, reference=other, shuffle=False)
    first = job.examples[:8]
    policy = torch.stack([logps_alone(tiny_model("mistral"), one, job.objective) for one in first])
    reference = torch.stack([logps_alone(tiny_model("mistral", seed=1), one, job.objective) for one in first])
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(job)
    scored = Scored(policy, torch.ones(8, 2), reference, torch.zeros(8, 2), torch.zeros(8, 2))
    expected = float(job.objective.loss(scored, job.objective.totals(first)))
    assert abs(expected - math.log(2)) > 0.01
    assert column(tmp_path, "loss")[0] == pytest.approx(expected, abs=1e-6)
    assert "reference: another model than the policy, weights " in caplog.text
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(other).items())
