"""What a command line asks for: a recipe from a file, from those shipped, or from the lock file of an earlier run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import RecipeError
from zephyr.pipeline.lock_file import Pinned, read_lock_file
from zephyr.recipe.loading import read_recipe
from zephyr.recipe.schema import Recipe
from zephyr.records.fields import printable
from zephyr.runs.layout import LOCK_FILE


class Asked(NamedTuple):
    """The recipe, notes on what was translated, and what a lock file pins, if it came from one."""

    recipe: Recipe
    notes: tuple[str, ...] = ()
    pinned: Pinned | None = None


def asked_recipe(name: str, overrides: Sequence[str], *, offline: bool) -> Asked:
    """The recipe that is asked for. Raises RecipeError."""
    if name.endswith(LOCK_FILE):
        if overrides:
            raise RecipeError(name, f"a locked run takes no settings, got {overrides[0]}", "leave them out")
        pinned = read_lock_file(Path(name))
        asked = Asked(Recipe.model_validate(pinned.recipe), pinned=pinned)
    else:
        read = read_recipe(name, overrides)
        asked = Asked(read.recipe, read.notes)
    if not asked.recipe.data_dir.is_dir():
        folder = asked.recipe.data_dir.absolute()
        raise RecipeError("data_dir", f"there is no folder {printable(str(folder))}", "give data_dir=FOLDER")
    return asked._replace(recipe=asked.recipe.model_copy(update={"offline": asked.recipe.offline or offline}))
