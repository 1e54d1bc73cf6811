"""Seconds of a recipe's stages from measured speeds."""

from collections.abc import Mapping

from zephyr.estimate.work import Training
from zephyr.pipeline.foreseen import num_world_prompts
from zephyr.pipeline.plan_calibration import LENGTH_FACTOR, Speeds
from zephyr.pipeline.plan_rows import SampledRows
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.recipe.schema import Recipe

# A pass forward beside a step, which is forward, backward and update.
FORWARD_SHARE = 1 / 3


def predicted_seconds(
    recipe: Recipe, trainings: Mapping[str, Training], sampled: Mapping[str, SampledRows], speeds: Speeds
) -> dict[str, float]:
    """Seconds by stage, as far as they can be foretold."""
    seconds = {
        stage: _of_training(trainings[stage], speeds.step_seconds[stage], sampled[stage].seconds_per_row)
        for stage in trainings
        if stage in speeds.step_seconds
    }
    answer_tokens = trainings["align"].rows.completion_tokens if "align" in trainings else 0.0
    answer_seconds = LENGTH_FACTOR * answer_tokens * speeds.token_seconds
    num_prompts = num_world_prompts(recipe)
    if recipe.feedback is not None and num_prompts and answer_seconds:
        answers = num_prompts * recipe.feedback.candidates.num_completions
        seconds["feedback"] = answers * answer_seconds + num_prompts * speeds.rating_seconds
    if recipe.evaluate is not None and answer_seconds:
        seconds["evaluate"] = sum(
            _of_world(recipe, task, answer_seconds, speeds.token_seconds)
            for task in recipe.evaluate.tasks
            if isinstance(task, WorldTask)
        )
    return {stage: seconds[stage] for stage in recipe.stages if stage in seconds}


def _of_training(training: Training, step_seconds: float, seconds_per_row: float) -> float:
    """Steps, rows made into tokens, held-out rows measured, and the reference's one pass."""
    rows = training.rows
    per_row = FORWARD_SHARE * step_seconds / training.train_batch_size
    measured = training.num_evaluations * rows.held_out * per_row
    reference = (rows.num_rows + rows.held_out) * per_row if training.has_reference else 0.0
    # The last batch of an epoch is smaller.
    steps = training.num_passes * rows.num_rows / training.train_batch_size
    return steps * step_seconds + measured + reference + (rows.num_rows + rows.held_out) * seconds_per_row


def _of_world(recipe: Recipe, task: WorldTask, answer_seconds: float, token_seconds: float) -> float:
    """A base model's answers go on to the longest there may be; those of trained models end."""
    answers = task.num_prompts * task.num_samples
    trained = sum(getattr(recipe, stage) is not None for stage in ("sft", "align"))
    base = answers * task.sampling.max_new_tokens * token_seconds if recipe.pretrain is not None else 0.0
    return base + trained * answers * answer_seconds
