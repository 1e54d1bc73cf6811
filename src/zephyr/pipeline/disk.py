"""The disk a run writes to: how much it will take, whether there is room, and a full disk said in a user's words."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import ResourceError
from zephyr.pipeline.inputs import Trains, training_section
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PretrainSection

GIGABYTE = 10**9
# Of one weight: in float32, and with Adam's two moments beside it.
WEIGHT_BYTES = 4
HALF_BYTES = 2
MOMENTS = 3
_REMEDIES = {
    errno.ENOSPC: "make room, then run again: what is finished is kept",
    errno.EDQUOT: "make room, then run again: what is finished is kept",
    errno.EFBIG: "raise the limit on file sizes, then run again",
    errno.EROFS: "give another output_dir",
    errno.EACCES: "change its rights, or give another output_dir",
    errno.EPERM: "change its rights, or give another output_dir",
    errno.ENOTDIR: "give another output_dir",
    errno.EEXIST: "move it away, or give another output_dir",
    errno.EIO: "mend the disk, or give another output_dir",
}


class Room(NamedTuple):
    """What a run will write at most at one time, roughly, and what is free where it writes."""

    needed_bytes: int
    free_bytes: int
    folder: Path

    def line(self) -> str:
        """The estimate in words."""
        needed, free = (f"{number / GIGABYTE:,.1f} GB" for number in self[:2])
        return f"about {needed} for models and checkpoints, {free} free in {self.folder}"


def room_for(recipe: Recipe, num_parameters: int) -> Room:
    """The estimate for a model of so many weights. Raises ResourceError where that is more than there is."""
    sections = [section for stage in recipe.stages if (section := training_section(recipe, stage)) is not None]
    models = sum(num_parameters * _weight_bytes(section) for section in sections)
    # Those of one stage are gone when the next begins.
    checkpoints = max((num_parameters * _checkpoint_bytes(section) for section in sections), default=0)
    folder = writable_folder(recipe.output_dir)
    room = Room(models + checkpoints, shutil.disk_usage(folder).free, folder)
    if room.needed_bytes > room.free_bytes:
        remedy = "make room, give another output_dir, or lower save_total_limit"
        raise ResourceError(str(recipe.output_dir), f"has too little room: {room.line()}", remedy)
    return room


def writable_folder(output_dir: Path) -> Path:
    """The folder there is that will hold the run's. Raises ResourceError if nothing can be written there."""
    folder = output_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ResourceError(str(folder), "is a file where a folder is needed", _REMEDIES[errno.EEXIST])
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError(str(folder), "nothing can be written there", _REMEDIES[errno.EACCES])
    return folder


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Nothing; a disk that is full, read-only or broken ends the block with a ResourceError. `folder`: the run's."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = str(error.filename2 or error.filename or folder)
        raise ResourceError(where, f"cannot be written ({error.strerror})", _REMEDIES[error.errno]) from error


def _weight_bytes(section: Trains) -> int:
    return HALF_BYTES if section.train.precision == "pure_bf16" else WEIGHT_BYTES


def _checkpoint_bytes(section: Trains) -> int:
    """Bytes for a weight in all checkpoints of a stage, one more than are kept while it is written."""
    if not isinstance(section, PretrainSection) and section.lora is not None:
        return 0
    train = section.train
    one_alone = train.save_steps is None and train.save_seconds is None
    kept = 1 if one_alone else train.save_total_limit + 1 + (train.metric_for_best_model is not None)
    return kept * MOMENTS * _weight_bytes(section)
