"""A reference that follows the policy: where it stands after each step, and that it survives a restart."""

import logging
import math

import pytest
import torch

from tests.train.sections import make_objective
from tests.train.tiny_runs import column, logged, pairs, tiny_job, weights
from zephyr.errors import DataError, RecipeError
from zephyr.models.adapters import add_lora
from zephyr.models.batch_scoring import forest_of
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.recipe.train_section import LoraSection
from zephyr.train.moving_reference import moving_reference
from zephyr.train.train import train


def test_a_reference_that_becomes_the_policy_after_each_step_keeps_the_loss_at_ln_2(tmp_path):
    job = tiny_job(tmp_path, reference_sync_steps=1, reference_mixup=1.0, eval_steps=2, eval_examples=pairs(3, seed=1))
    before = weights(job.model)
    train(job)
    assert column(tmp_path, "loss") == pytest.approx([math.log(2)] * 6, abs=1e-6)
    assert column(tmp_path, "eval_loss") == pytest.approx([math.log(2)] * 3, abs=1e-6)
    assert column(tmp_path, "rewards/margins") == pytest.approx([0.0] * 6, abs=1e-5)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in weights(job.model).items())


def test_the_loss_falls_back_to_ln_2_where_the_reference_moves(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(tiny_job(tmp_path / "moving", reference_sync_steps=4, reference_mixup=1.0))
    train(tiny_job(tmp_path / "standing"))
    moving, standing = column(tmp_path / "moving", "loss"), column(tmp_path / "standing", "loss")
    assert moving[:4] == standing[:4]
    assert moving[4] == pytest.approx(math.log(2), abs=1e-6)
    assert max(standing[4], moving[5]) < 0.69
    assert "the reference moves by 1.0 towards the policy every 4 steps" in caplog.text


def test_it_scores_as_a_model_of_its_weights_and_leaves_the_policy_alone(tmp_path):
    objective = make_objective("dpo", {"beta": 0.1, "reference_sync_steps": 1, "reference_mixup": 0.6})
    policy, first = ForestScorer(tiny_model("mistral")), tiny_model("mistral")
    moving = moving_reference(objective, policy, None)
    assert moving is not None
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    kept = weights(policy)
    moving.follow(policy, 1)
    # The model that TR-DPO's soft update describes, made by hand.
    mixed = tiny_model("mistral")
    with torch.no_grad():
        for name, weight in mixed.named_parameters():
            weight.copy_(0.6 * kept[f"causal_lm.{name}"] + 0.4 * first.get_parameter(name))
    rows = [objective.sequences(pair) for pair in pairs(4)]
    with torch.no_grad():
        expected = ForestScorer(mixed)(forest_of(rows, 2)).logps.view(4, 2)
    torch.testing.assert_close(moving.logps(policy, rows, max_tokens=400), expected, rtol=1e-5, atol=0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(policy).items())


def test_a_failure_while_it_scores_gives_the_policy_back():
    objective = make_objective("dpo", {"beta": 0.1, "reference_sync_steps": 1})
    policy = ForestScorer(tiny_model("mistral"))
    moving = moving_reference(objective, policy, tiny_model("mistral", seed=1))
    kept = weights(policy)
    with pytest.raises(DataError, match="max_tokens_per_micro_batch = 5"):
        moving.logps(policy, [objective.sequences(pair) for pair in pairs(2)], max_tokens=5)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(policy).items())


def test_it_starts_as_another_model_if_one_is_named(tmp_path):
    job = tiny_job(tmp_path, reference=tiny_model("mistral", seed=1), reference_sync_steps=3, reference_mixup=1.0)
    train(job)
    losses = column(tmp_path, "loss")
    assert all(abs(loss - math.log(2)) > 0.01 for loss in losses[:3])
    assert losses[3] == pytest.approx(math.log(2), abs=1e-6)


def test_it_goes_on_from_a_checkpoint_to_the_bit(tmp_path):
    moves = {"reference_sync_steps": 2, "reference_mixup": 0.6, "save_steps": 1, "save_total_limit": 6}
    straight = tiny_job(tmp_path / "straight", **moves)
    train(straight)
    for step in (2, 3):
        train(tiny_job(tmp_path / f"{step}", **moves))
        for later in range(step + 1, 7):
            (tmp_path / f"{step}" / f"checkpoint-{later}").rename(tmp_path / f"{step}-{later}")
        resumed = tiny_job(tmp_path / f"{step}", **moves)
        train(resumed)
        assert logged(tmp_path / f"{step}") == logged(tmp_path / "straight")
        found = weights(resumed.model)
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(straight.model).items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": add_lora(tiny_model("mistral"), LoraSection(r=2))},
            "a moving reference needs a policy that trains all its weights",
        ),
        ({"reference": tiny_model("mistral", layers=1)}, "towards a policy of another shape, as at causal_lm"),
        ({"reference": tiny_model("mistral", hidden=40)}, "towards a policy of another shape, as at causal_lm"),
    ],
)
def test_a_policy_that_no_reference_can_follow_is_refused(tmp_path, changes, words):
    with pytest.raises(RecipeError, match=words):
        train(tiny_job(tmp_path, reference_sync_steps=2, **changes))
