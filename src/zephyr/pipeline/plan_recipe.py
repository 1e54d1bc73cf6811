"""`zephyr plan`: a recipe's stages as plain values for `zephyr.estimate`, and what comes of them line by line.

On accelerators all is arithmetic. On this machine a new model's stages are timed for some seconds instead. Where the
run has happened, what its stages took stands beside.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import psutil
import torch

from zephyr.errors import DataError, ModelError, ResourceError
from zephyr.estimate.duration import Cluster
from zephyr.estimate.lines import comparison_lines, machine_line, memory_line, training_lines, work_line
from zephyr.estimate.memory import memory_of
from zephyr.estimate.shapes import KNOWN_SHAPES, Json, ModelShape, shape_of
from zephyr.estimate.work import Adapters, Training
from zephyr.models.loading import Tokenizer, unreadable
from zephyr.models.meta_model import empty_model
from zephyr.models.new_model import new_model
from zephyr.pipeline.calls_ahead import calls_of_feedback, calls_of_synth, world_prompts
from zephyr.pipeline.disk import room_for
from zephyr.pipeline.foreseen import Foreseen, num_world_prompts, synth_sample
from zephyr.pipeline.inputs import Trains, training_section
from zephyr.pipeline.make_models import learnt_tokenizer
from zephyr.pipeline.plan_calibration import Timed, measure_speeds
from zephyr.pipeline.plan_rows import SampledRows, sampled_rows
from zephyr.pipeline.plan_seconds import predicted_seconds
from zephyr.pipeline.ready import base_source, encoder_for, tokenizer_of
from zephyr.recipe.evaluate_section import WorldTask
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, PretrainSection, SftSection
from zephyr.runs.reader import seconds_taken
from zephyr.stages.stage import Work
from zephyr.train.objectives import Objective, build_objective

SFT: Objective = build_objective("sft", {})


class Planner:
    """One look at a recipe: its model's shape, and what its stages train."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.made: dict[str, Foreseen] = synth_sample(recipe, folder / "synth")
        self.tokenizer = self._tokenizer(folder)
        self.shape = model_shape(recipe)
        self.trainings: dict[str, Training] = {}
        self.sampled: dict[str, SampledRows] = {}

    def _tokenizer(self, folder: Path) -> Tokenizer | None:
        """The tokenizer, if it can be had without the network or is learnt; public data need none."""
        recipe, shape = self.recipe, self.recipe.model
        if isinstance(shape, NewModel) and "pretrain" in self.made:
            return learnt_tokenizer(Work(recipe, "pretrain", Path(), {"synth": folder / "synth"}, Path()), shape)
        try:
            return tokenizer_of(recipe.model_copy(update={"offline": True}))
        except ModelError:
            return None

    def look(self, stage: str, section: Trains) -> None:
        """Nothing; afterwards it is known what the stage trains. Raises DataError where its rows are not known."""
        encoder = None if self.tokenizer is None else encoder_for(self.tokenizer, self.recipe, stage)
        found = sampled_rows(self.recipe, stage, section, encoder=encoder, made=self.made.get(stage))
        self.sampled[stage] = found
        self.trainings[stage] = _training(stage, section, self.shape, found)

    def timed(self) -> dict[str, Timed]:
        """The stages of which there are examples to train on."""
        return {
            stage: Timed(objective_of(section), _batched(section, self.trainings[stage]).train, found.examples)
            for stage, found in self.sampled.items()
            if found.examples and (section := training_section(self.recipe, stage)) is not None
        }


def plan_lines(recipe: Recipe, cluster: Cluster | None, *, calibration_seconds: float) -> Iterator[str]:
    """What the run will take, line by line. Without a cluster, on this machine, timed for so many seconds."""
    with TemporaryDirectory(prefix="zephyr-plan-") as folder:
        planner = Planner(recipe, Path(folder))
        yield f"{'model':<10}{_model_line(planner.shape)}"
        for stage in recipe.stages:
            for line in _stage_lines(planner, stage, cluster):
                yield f"{stage:<10}{line}"
        yield f"{'disk':<10}{_disk_line(recipe, planner.shape)}"
        predicted: dict[str, float] = {}
        if cluster is None and isinstance(recipe.model, NewModel) and planner.tokenizer is not None:
            predicted = _calibrated(planner, calibration_seconds)
    if cluster is None:
        taken = seconds_taken(recipe.output_dir / recipe.name, recipe.stages)
        yield from (f"{'time':<10}{line}" for line in comparison_lines(predicted, taken, calibration_seconds))


def model_shape(recipe: Recipe) -> ModelShape:
    """The shape of the recipe's model: of a new one as it says, else from what is known or its configuration."""
    model = recipe.model
    if isinstance(model, NewModel):
        config = model.model_dump(exclude={"kind", "architecture"}) | {"model_type": model.architecture}
        if model.architecture == "mixtral":
            config |= {"num_local_experts": 8, "num_experts_per_tok": 2}
        return shape_of(cast("dict[str, Json]", config))
    known = KNOWN_SHAPES.get(model.name_or_path)
    if known is not None:
        return known
    source = base_source(recipe)
    try:
        config = empty_model(source).config.to_dict()
        return shape_of(cast("dict[str, Json]", config))
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(source, "configuration", error) from error


def objective_of(section: Trains) -> Objective:
    """The objective of a stage."""
    if not isinstance(section, AlignSection):
        return SFT
    return build_objective(section.objective.name, section.objective.model_dump(exclude={"name"}, exclude_none=True))


def _training(stage: str, section: Trains, shape: ModelShape, found: SampledRows) -> Training:
    """The stage in plain values."""
    train, objective = section.train, objective_of(section)
    lora = None if isinstance(section, PretrainSection) else section.lora
    adapters = None
    if lora is not None:
        attention_only = lora.target_modules != "all-linear" and not any("gate" in one for one in lora.target_modules)
        adapters = Adapters(lora.r, attention_only, lora.load_in_4bit)
    training = Training(
        stage=stage,
        shape=shape,
        rows=found.rows,
        train_batch_size=train.train_batch_size,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps,
        max_tokens_per_micro_batch=train.max_tokens_per_micro_batch,
        max_length=section.data.max_length,
        precision=train.precision,
        optim=train.optim,
        activation_checkpointing=train.activation_checkpointing,
        eval_steps=train.eval_steps,
        has_reference=objective.needs_reference,
        moving_reference=objective.reference_sync_steps is not None,
        adapters=adapters,
        notes=found.notes,
    )
    return replace(training, train_batch_size=_batched(section, training).train.train_batch_size)


def _batched(section: Trains, training: Training) -> Trains:
    """The section with its batch in dialogues, where it counts packed sequences."""
    if not isinstance(section, SftSection):
        return section
    per_step = section.dialogues_per_step(training.rows.tokens)
    return section.model_copy(update={"train": section.train.model_copy(update={"train_batch_size": per_step})})


def _stage_lines(planner: Planner, stage: str, cluster: Cluster | None) -> Iterator[str]:
    recipe, section = planner.recipe, training_section(planner.recipe, stage)
    if section is not None:
        try:
            planner.look(stage, section)
        except DataError as error:
            yield f"not planned: {error}"
            return
        training = planner.trainings[stage]
        if cluster is not None:
            yield from training_lines(training, cluster, recipe_name=recipe.name)
            return
        yield work_line(training)
        yield from training.notes
        memory = memory_of(training, 1)
        yield memory_line(memory, "this machine", training)
        yield machine_line(memory, psutil.virtual_memory().total)
    elif stage == "synth":
        yield from list(calls_of_synth(recipe)) or ["asks the scripted teacher, which costs nothing"]
    elif stage == "feedback":
        num_prompts = num_world_prompts(recipe)
        sample = world_prompts(recipe.seed, num_prompts or 0)
        asked = list(calls_of_feedback(recipe, sample, num_prompts)) if num_prompts else []
        yield from asked or ["asks about prompts or ratings from files: zephyr check counts them"]
    elif stage == "evaluate":
        yield from _evaluation_lines(recipe)
    else:
        yield "writes files, without a model at work unless sample_prompts are given"


def _evaluation_lines(recipe: Recipe) -> Iterator[str]:
    """What is measured of how many models."""
    assert recipe.evaluate is not None
    models = [stage for stage in ("pretrain", "sft", "align") if stage in recipe.stages]
    for task in recipe.evaluate.tasks:
        if isinstance(task, WorldTask):
            answers = task.num_prompts * task.num_samples * len(models)
            yield f"world: {answers:,} answers by {len(models)} models, {task.sampling.max_new_tokens} tokens at most"
        else:
            yield f"{task.name}: one pass forward over held-out rows for each of {len(models)} models"


def _model_line(shape: ModelShape) -> str:
    active = f", {shape.active_parameters:,} of them for a token" if shape.num_experts > 1 else ""
    return f"{shape.parameters:,} weights{active}, {shape.cache_bytes_per_token:,} bytes of cache a token in bfloat16"


def _disk_line(recipe: Recipe, shape: ModelShape) -> str:
    try:
        return room_for(recipe, shape.parameters).line()
    except ResourceError as error:
        return str(error)


def _calibrated(planner: Planner, seconds: float) -> dict[str, float]:
    """Seconds of every stage as this machine's measured speeds foretell."""
    recipe, tokenizer = planner.recipe, planner.tokenizer
    assert isinstance(recipe.model, NewModel)
    assert tokenizer is not None
    sizes = recipe.model.model_dump(exclude={"kind", "architecture", "vocab_size"})
    model = new_model(recipe.model.architecture, sizes, tokenizer, seed=recipe.seed, dtype=torch.float32)
    speeds = measure_speeds(recipe, model, planner.timed(), seconds=seconds)
    return predicted_seconds(recipe, planner.trainings, planner.sampled, speeds)
