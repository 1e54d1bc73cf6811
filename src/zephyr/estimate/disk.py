"""How much disk a run will take, and whether there is room for it."""

import shutil
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import ResourceError
from zephyr.estimate.memory import WEIGHT_BYTES
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import TrainingSection
from zephyr.runs.disk import writable_folder

GIGABYTE = 10**9
# A checkpoint holds every weight, and Adam's two moments beside it.
NUMBERS_PER_WEIGHT = 3


class DiskSpace(NamedTuple):
    """The most that a run will hold on disk at one time, roughly, and what is free where it writes."""

    needed_bytes: int
    free_bytes: int
    folder: Path

    def line(self) -> str:
        """The estimate in words."""
        needed, free = (f"{number / GIGABYTE:,.1f} GB" for number in self[:2])
        return f"about {needed} for models and checkpoints, {free} free in {self.folder}"


def room_for(recipe: Recipe, num_parameters: int, *, num_rounds: int = 1) -> DiskSpace:
    """The disk space of a run with a model of so many weights; of rounds, whose first has this recipe, of all.

    Raises ResourceError where less than that is free.
    """
    trained = (recipe.pretrain, recipe.sft, recipe.reward, recipe.align)
    sections = [one for one in trained if one is not None]
    models = sum(num_parameters * WEIGHT_BYTES[section.train.precision] for section in sections)
    if recipe.align is not None:  # which every round has, while the other stages are those of the first
        models += (num_rounds - 1) * num_parameters * WEIGHT_BYTES[recipe.align.train.precision]
    # A stage's checkpoints are deleted before the next stage begins.
    checkpoints = max((num_parameters * _checkpoint_bytes(section) for section in sections), default=0)
    folder = writable_folder(recipe.output_dir)
    space = DiskSpace(models + checkpoints, shutil.disk_usage(folder).free, folder)
    if space.needed_bytes > space.free_bytes:
        remedy = "make room, give another output_dir, or lower save_total_limit"
        raise ResourceError(str(recipe.output_dir), f"has too little room: {space.line()}", remedy)
    return space


def _checkpoint_bytes(section: TrainingSection) -> int:
    """Bytes for a weight in all checkpoints of a stage; while one is written there is one more than is kept."""
    if section.lora is not None:
        return 0
    train = section.train
    only_one = train.save_steps is None and train.save_seconds is None
    kept = 1 if only_one else train.save_total_limit + 1 + (train.metric_for_best_model is not None)
    return kept * NUMBERS_PER_WEIGHT * WEIGHT_BYTES[train.precision]
