"""What `fastest` in a recipe stands for: the dtype that was measured where the run began, kept in its lock file.

A run that is resumed on another machine keeps its dtype, or its scores and answers would hang on where it went on.
"""

from pathlib import Path

from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import FASTEST
from zephyr.recipe.train_section import Precision
from zephyr.runs.layout import LOCK_FILE
from zephyr.runs.lock_file import measured_dtype
from zephyr.runs.ranks import is_leader, wait_until

# Training keeps its weights in float32 either way.
_PRECISIONS: dict[str, Precision] = {"bfloat16": "bf16", "float32": "float32"}


def in_dtype(recipe: Recipe, dtype: str) -> Recipe:
    """The recipe with this dtype wherever it asks for the fastest."""
    changed: dict[str, object] = {"inference_dtype": dtype} if recipe.inference_dtype == FASTEST else {}
    for stage, section in recipe.trained.items():
        if section.train.precision == FASTEST:
            train = section.train.model_copy(update={"precision": _PRECISIONS[dtype]})
            changed[stage] = section.model_copy(update={"train": train})
    return recipe.model_copy(update=changed)


def as_begun(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe as the run in the folder began it; unchanged before that."""
    measured = measured_dtype(folder)
    return recipe if measured is None else in_dtype(recipe, measured)


def as_begun_here(recipe: Recipe) -> Recipe:
    """The recipe as its run began, or would begin on this machine, which is then measured."""
    return in_dtype(recipe, _measure(recipe.output_dir / recipe.name)) if recipe.asks_for_fastest else recipe


def measure_for_run(folder: Path) -> str:
    """The dtype of this run: measured by rank 0 when it begins, for which the others wait, then kept in its folder."""
    if is_leader():
        return _measure(folder)
    wait_until(lambda: measured_dtype(folder) is not None, f"{folder / LOCK_FILE} from rank 0")
    measured = measured_dtype(folder)
    assert measured is not None
    return measured


def _measure(folder: Path) -> str:
    from zephyr.models.loading import fastest_placement  # imports torch

    return measured_dtype(folder) or fastest_placement().dtype
