"""What a training ends with: weights that moved, the best of them where a metric chooses, and their metrics."""

from pathlib import Path

import pytest
import torch

from tests.slowly import slow
from tests.train.checkpoint_runs import assert_same
from tests.train.tiny_runs import column, logged, pairs, tiny_job, weights
from zephyr.errors import CheckpointError, InvariantError, RecipeError
from zephyr.train.checkpoint.checkpoint import checkpoint_folders
from zephyr.train.checks.movement import SAMPLED_ELEMENTS
from zephyr.train.train import train


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ({"warmup_steps": 6}, "train.warmup_steps: the warm-up takes 6 of 6 steps, so the learning rate never reaches"),
        ({"warmup_steps": 100}, "train.warmup_steps: the warm-up takes 100 of 6 steps"),
        ({"warmup_ratio": 0.1, "max_steps": 1}, "train.warmup_ratio: the warm-up takes 1 of 1 steps"),
    ],
)
def test_a_warm_up_that_is_never_over_is_refused(tmp_path, warmup, expected):
    with pytest.raises(RecipeError, match=expected):
        train(tiny_job(tmp_path, **warmup))


def test_a_run_without_any_gradient_is_refused(tmp_path):
    equal = [pair._replace(completions=(pair.completions[0],) * 2) for pair in pairs()]
    expected = "no weight has moved in 6 steps; at the last the learning rate was 0.000166667 and the gradient norm 0;"
    with pytest.raises(InvariantError, match=expected):
        train(tiny_job(tmp_path, examples=equal))


@pytest.mark.parametrize(
    ("crushed", "num_epochs", "steps"),
    [({"max_grad_norm": 1e-12}, 2, 6), ({"adam_epsilon": 1e6}, 8, 10), ({"beta": 1e-14}, 2, 6)],
)
def test_a_run_whose_steps_are_crushed_is_refused_and_early_if_it_is_long(tmp_path, crushed, num_epochs, steps):
    """Adam steps by the learning rate, unless something makes gradients tiny before it or in it."""
    expected = (
        f"the weights hardly move: in {steps} steps by .* one step at the learning rate 0.001 is a thousand times"
    )
    with pytest.raises(InvariantError, match=expected):
        train(tiny_job(tmp_path, num_train_epochs=num_epochs, **crushed))
    assert len(logged(tmp_path)) <= steps


def test_the_outcome_says_how_many_weights_moved(tmp_path):
    job = tiny_job(tmp_path)
    before = weights(job.model)
    moved = train(job).weights_moved
    exact = [(tensor != before[name]).double() for name, tensor in weights(job.model).items()]
    # All parts of this model have fewer elements than are sampled of each.
    assert max(one.numel() for one in exact) <= SAMPLED_ELEMENTS
    assert moved == pytest.approx(float(torch.cat([one.flatten() for one in exact]).mean()))
    # Embeddings of tokens that no example has stay.
    assert 0.5 < moved < 1


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in checkpoint_folders(folder))


def test_the_last_and_the_best_checkpoints_stay(tmp_path):
    # Judged by pairs the wrong way round, a run is at its best where it begins, whatever "best" means.
    swapped = [pair._replace(completions=pair.completions[::-1]) for pair in pairs()]
    every = {"save_steps": 1, "eval_steps": 1, "eval_examples": swapped}
    train(tiny_job(tmp_path / "low", **every, metric_for_best_model="loss"))
    assert column(tmp_path / "low", "eval_loss") == sorted(column(tmp_path / "low", "eval_loss"))
    assert saved(tmp_path / "low") == [1, 5, 6]
    train(
        tiny_job(
            tmp_path / "high",
            **every,
            metric_for_best_model="eval_rewards/margins",
            save_total_limit=1,
        )
    )
    assert saved(tmp_path / "high") == [1, 6]
    train(tiny_job(tmp_path / "none", **every, save_total_limit=3))
    assert saved(tmp_path / "none") == [4, 5, 6]
    train(tiny_job(tmp_path / "end"))
    assert saved(tmp_path / "end") == [6]


def test_the_best_weights_are_those_in_the_end_however_often_a_run_is_saved(tmp_path):
    swapped = [pair._replace(completions=pair.completions[::-1]) for pair in pairs()]
    judged = {"eval_steps": 2, "eval_examples": swapped, "metric_for_best_model": "loss"}
    # Each row's reference is scored once: packed beside others, it would be another number in its last digits.
    alike = {"lr_scheduler_type": "constant", "reference_store": tmp_path / "reference"}
    short = tiny_job(tmp_path / "short", max_steps=2, **alike)
    train(short)
    for name, save_steps in (("none", None), ("every", 1)):
        job = tiny_job(tmp_path / name, **judged, save_steps=save_steps, **alike)
        assert train(job).best_step == 2
        assert_same(weights(job.model), weights(short.model))
        again = tiny_job(tmp_path / name, **judged, save_steps=save_steps, **alike)
        assert train(again).best_step == 2
        assert_same(weights(again.model), weights(short.model))
    (tmp_path / "none/checkpoint-2/state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="checkpoint-2: holds the best weights and is damaged"):
        train(tiny_job(tmp_path / "none", **judged, **alike))


def test_the_outcome_gives_the_metrics_of_the_final_weights(tmp_path):
    swapped = [pair._replace(completions=pair.completions[::-1]) for pair in pairs()]
    outcome = train(tiny_job(tmp_path, eval_steps=2, eval_examples=swapped, metric_for_best_model="loss"))
    lines = {line["step"]: line for line in logged(tmp_path)}
    assert (outcome.step, outcome.best_step) == (6, 2)
    assert outcome.eval_metrics["eval_loss"] == lines[2]["eval_loss"] < lines[6]["eval_loss"]
    assert outcome.train_metrics["loss"] == lines[2]["loss"] > lines[6]["loss"]


@pytest.mark.parametrize(
    ("patience", "threshold", "last"), [(1, 0.0, 2), slow(3, 0.0, 4), (5, 0.0, 6), slow(6, 0.0, 6)]
)
def test_early_stopping_ends_after_so_many_evaluations_without_a_better_one(tmp_path, patience, threshold, last):
    # Judged by pairs the wrong way round, a run is at its best at step 1.
    swapped = [pair._replace(completions=pair.completions[::-1]) for pair in pairs()]
    watched = {"eval_steps": 1, "eval_examples": swapped, "metric_for_best_model": "loss"}
    stopping = {"early_stopping_patience": patience, "early_stopping_threshold": threshold}
    outcome = train(tiny_job(tmp_path, **watched, **stopping))
    assert (outcome.step, outcome.best_step) == (last, 1)
    assert len(logged(tmp_path)) == last
    assert train(tiny_job(tmp_path, **watched, **stopping)) == outcome


def test_a_gain_below_the_threshold_is_none_for_early_stopping(tmp_path):
    # Its own pairs are learnt, so that every evaluation is better; not by 1.
    watched = {"eval_steps": 1, "eval_examples": pairs(), "metric_for_best_model": "loss"}
    outcome = train(tiny_job(tmp_path, **watched, early_stopping_patience=2, early_stopping_threshold=1.0))
    assert (outcome.step, outcome.best_step) == (3, 3)
