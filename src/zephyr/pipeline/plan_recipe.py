"""`zephyr plan`: what a recipe's stages will take, line by line.

On accelerators all is arithmetic. On this machine a new model's stages are timed for some seconds instead. Where the
run has happened, what its stages took stands beside.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch

from zephyr.errors import DataError, ModelError, ResourceError
from zephyr.estimate.disk import room_for
from zephyr.estimate.duration import Cluster
from zephyr.estimate.lines import comparison_lines, model_line, training_lines
from zephyr.estimate.model_shape import KNOWN_SHAPES, ModelShape, shape_of, shape_of_new
from zephyr.estimate.workload import Workload
from zephyr.models.loading import Tokenizer, unreadable
from zephyr.models.meta_model import empty_model
from zephyr.models.new_model import new_model
from zephyr.pipeline.calibration import Sampled, estimated_seconds
from zephyr.pipeline.inputs import Trains, training_section
from zephyr.pipeline.make_models import learnt_tokenizer
from zephyr.pipeline.plan_rows import sampled_rows
from zephyr.pipeline.ready import base_source, encoder_for, tokenizer_of
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.records.fields import Json
from zephyr.runs.reader import seconds_taken
from zephyr.stages import deliver, evaluate, feedback, synth
from zephyr.stages.preview import MadeRows, Preview
from zephyr.stages.stage import Work


class Planner:
    """One look at a recipe: its model's shape, and what its stages train."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        preview = Preview(recipe, folder)
        synth.sample_rows(preview)
        self.made: dict[str, MadeRows] = preview.made
        self.tokenizer = self._tokenizer(folder)
        self.shape = model_shape(recipe)
        self.sampled: dict[str, Sampled] = {}

    def _tokenizer(self, folder: Path) -> Tokenizer | None:
        """The tokenizer, if it can be had without the network or is learnt; public data need none."""
        recipe, shape = self.recipe, self.recipe.model
        if isinstance(shape, NewModel) and "pretrain" in self.made:
            return learnt_tokenizer(Work(recipe, "pretrain", Path(), {"synth": folder / "synth"}, Path()), shape)
        try:
            return tokenizer_of(recipe.model_copy(update={"offline": True}))
        except ModelError:
            return None

    def training(self, stage: str, section: Trains, cluster: Cluster | None) -> Iterator[str]:
        """Lines about a training stage, whose rows are sampled."""
        encoder = None if self.tokenizer is None else encoder_for(self.tokenizer, self.recipe, stage)
        try:
            found = sampled_rows(self.recipe, stage, section, encoder=encoder, made=self.made.get(stage))
        except DataError as error:
            yield f"not planned: {error}"
            return
        workload = Workload(stage, section, self.shape, found.rows)
        self.sampled[stage] = Sampled(workload, found.examples, found.seconds_per_row)
        yield from training_lines(workload, cluster, recipe_name=self.recipe.name, notes=found.notes)

    def seconds(self, seconds: float) -> dict[str, float]:
        """Estimated seconds of every stage on this machine; empty where the model is not a new one."""
        recipe, tokenizer = self.recipe, self.tokenizer
        if not isinstance(recipe.model, NewModel) or tokenizer is None:
            return {}
        sizes = recipe.model.model_dump(exclude={"kind", "architecture", "vocab_size"})
        model = new_model(recipe.model.architecture, sizes, tokenizer, seed=recipe.seed, dtype=torch.float32)
        timed = {stage: sampled for stage, sampled in self.sampled.items() if sampled.examples}
        return estimated_seconds(recipe, model, timed, seconds=seconds)


def plan_lines(recipe: Recipe, cluster: Cluster | None, *, calibration_seconds: float) -> Iterator[str]:
    """What the run will take, line by line. Without a cluster, on this machine, timed for so many seconds."""
    with TemporaryDirectory(prefix="zephyr-plan-") as folder:
        planner = Planner(recipe, Path(folder))
        yield f"{'model':<10}{model_line(planner.shape)}"
        for stage in recipe.stages:
            section = training_section(recipe, stage)
            lines = _other_lines(recipe, stage) if section is None else planner.training(stage, section, cluster)
            yield from (f"{stage:<10}{line}" for line in lines)
        yield f"{'disk':<10}{_disk_line(recipe, planner.shape)}"
        if cluster is None:
            estimated = planner.seconds(calibration_seconds)
            actual = seconds_taken(recipe.output_dir / recipe.name, recipe.stages)
            yield from (f"{'time':<10}{line}" for line in comparison_lines(estimated, actual, calibration_seconds))


def model_shape(recipe: Recipe) -> ModelShape:
    """The shape of the recipe's model: of a new one as it says, else from what is known or its configuration.

    Raises ModelError where the configuration cannot be read.
    """
    model = recipe.model
    if isinstance(model, NewModel):
        return shape_of_new(model)
    known = KNOWN_SHAPES.get(model.name_or_path)
    if known is not None:
        return known
    source = base_source(recipe)
    try:
        config = empty_model(source).config.to_dict()
        return shape_of(cast("dict[str, Json]", config))
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(source, "configuration", error) from error


def _other_lines(recipe: Recipe, stage: str) -> Iterator[str]:
    if stage == "synth":
        yield from synth.STAGE.estimate(Preview(recipe, Path()))
    elif stage == "feedback":
        yield from feedback.STAGE.estimate(Preview(recipe, Path()))
    elif stage == "evaluate":
        yield from evaluate.STAGE.estimate(Preview(recipe, Path()))
    else:
        yield from deliver.STAGE.estimate(Preview(recipe, Path()))


def _disk_line(recipe: Recipe, shape: ModelShape) -> str:
    try:
        return room_for(recipe, shape.parameters).line()
    except ResourceError as error:
        return str(error)
