"""What a training stage needs of this machine and of its model, checked before any row is read."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import ModelError, Problems, RecipeError
from zephyr.models.source import Source
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.objective_section import CustomObjective
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import REWARD, PreferenceSection, TrainingSection
from zephyr.stages.stage import Work
from zephyr.stages.start import base_source, earlier_training, encoder_for, named_start, section_of

# How many times as slow as float32 bfloat16 must be for a word about it: measured times are of a machine at work.
LEAST_SLOWER = 2

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from zephyr.train.tracker import TrackedAs


def check_device(section: TrainingSection) -> None:
    """Check that this machine supports the section's training. Raises DeviceError."""
    lora = section.lora
    if lora is not None and lora.load_in_4bit:
        from zephyr.models.quantised import refuse_4bit

        refuse_4bit()


def slow_precision(section: TrainingSection) -> str | None:
    """What to say where this machine trains on a processor that multiplies the section's dtype slowly; None elsewhere.

    One without units for bfloat16 takes a hundred times as long as in float32.
    """
    precision = section.train.precision
    if precision not in ("bf16", "pure_bf16"):
        return None
    from zephyr.models.loading import placement  # imports torch
    from zephyr.models.matmul_speed import matmul_speed

    speed = matmul_speed() if placement().device == "cpu" else None
    if speed is None or speed.float32 < LEAST_SLOWER * speed.bfloat16:
        return None
    times = speed.float32 / speed.bfloat16
    what = f"this processor multiplies bfloat16 {times:,.0f} times as slowly as float32"
    return f"precision {precision}: {what}; set float32"


def check_setup(recipe: Recipe, stage: str, tokenizer: Tokenizer | None = None) -> None:
    """Check that the packages are installed that a training stage names, and its model has the modules it names.

    ``tokenizer``: that of the recipe's own model, if it is at hand; large ones take seconds to load. Raises RecipeError
    or ModelError, or ProblemsError for several.
    """
    section, problems = section_of(recipe, stage), Problems()
    train, lora = section.train, section.lora
    for tracker in train.report_to:
        if tracker != "jsonl" and find_spec(tracker) is None:
            with problems.noted():
                what = f"the tracker '{tracker}' needs its package, which is not installed"
                raise RecipeError(f"{stage}.train.report_to", what, f"pip install {tracker}, or leave it out")
    if isinstance(section, PreferenceSection) and isinstance(section.objective, CustomObjective):
        from zephyr.train.objectives.custom import load_loss  # not for a check of the losses that come with Zephyr

        with problems.noted():
            load_loss(section.objective, recipe.data_dir)
    if lora is not None or stage == REWARD or train.router_aux_loss_coef:
        with problems.noted():
            _check_model(recipe, stage, section, tokenizer)
    problems.raise_any()


def replaced_template(encoder: DialogueEncoder) -> str | None:
    """What to say where a model that comes with a chat template learns another one; None where it does not."""
    if not encoder.replaces_template:
        return None
    return (
        f"chat_template {encoder.section.name} replaces the one that the model comes with, in which it may know how to "
        "answer; chat_template: {name: own} keeps that one"
    )


def none_held_out(section: TrainingSection, num_held_out: int) -> str | None:
    """What to say where a share is to be held out and chance has chosen no prompt; None otherwise.

    Raises RecipeError where the training needs held-out rows.
    """
    share, train = section.data.eval_share, section.train
    if not share or num_held_out:
        return None
    what = f"no prompt is among the {share:g} that are drawn by chance, so nothing is evaluated"
    if train.eval_steps is not None or train.metric_for_best_model is not None:
        remedy = "give more rows, a larger share, or eval_sources; or leave eval_steps and metric_for_best_model out"
        raise RecipeError("data.eval_share", what, remedy)
    return f"data.eval_share: {what}; give more rows, a larger share, or eval_sources"


def _check_model(recipe: Recipe, stage: str, section: TrainingSection, tokenizer: Tokenizer | None) -> None:
    """Check what settings need of the model to start from, where its configuration can be had."""
    import torch

    from zephyr.models.architecture import check_control_tokens
    from zephyr.models.loading import empty_model
    from zephyr.models.new_model import weightless_model

    named = named_start(recipe, stage)
    if named is None and isinstance(recipe.model, NewModel):
        sizes = recipe.model.model_dump(exclude={"kind", "architecture"})
        new = weightless_model(recipe.model.architecture, sizes, dtype=torch.float32)
        _check_modules(new, stage, section)
        return
    source = base_source(recipe) if named is None else Source(named, offline=recipe.offline)
    try:
        model = empty_model(source)
        of_start = load_tokenizer(source) if tokenizer is None or named is not None else tokenizer
        controls = encoder_for(of_start, recipe, stage).written_controls()
    except (ModelError, RecipeError):  # what is wrong with it is said where the model is looked at
        return
    _check_modules(model, stage, section)
    lora, earlier = section.lora, earlier_training(recipe, stage)
    if lora is not None and all(one.lora is not None for one in earlier):
        check_control_tokens(source, model, lora, controls)


def _check_modules(model: "PreTrainedModel", stage: str, section: TrainingSection) -> None:
    from zephyr.models.architecture import check_lora_modules
    from zephyr.models.scorer import experts_per_token  # which imports peft, as a reward model does

    if section.train.router_aux_loss_coef and not experts_per_token(model):
        what = f"{type(model).__name__} chooses no experts, so there is no balance to keep"
        raise RecipeError(f"{stage}.train.router_aux_loss_coef", what, "leave it out")
    if stage == REWARD:
        from zephyr.models.reward_model import reward_model_of

        model = reward_model_of(model)
    if section.lora is not None:
        check_lora_modules(model, section.lora)


def tracked_as(work: Work) -> "TrackedAs":
    """What trackers call the stage, with the whole recipe, and the folder that is there when the run is over."""
    from zephyr.train.tracker import TrackedAs

    finished_name = work.folder.name.removeprefix(".").removesuffix(".partial")
    config = work.recipe.model_dump(mode="json")
    return TrackedAs(work.recipe.name, work.stage, finished_name, work.run_folder, config)
