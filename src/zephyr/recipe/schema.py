"""The recipe: a whole run as one frozen record, whose settings agree with each other."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from zephyr.errors import RecipeError, did_you_mean
from zephyr.recipe.conflicts import find_conflicts
from zephyr.recipe.round_conflicts import round_conflicts
from zephyr.recipe.stage_sections import RecipeFields

CONFLICTS = "conflicts"


class Recipe(RecipeFields):
    """A whole run. A stage that is left out is not run; its input then comes from outside."""

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        """Raise an error that lists all settings that conflict with each other."""
        conflicts = [*find_conflicts(self), *round_conflicts(self)]
        if conflicts:
            # As context too, so that a reader of the error has them one by one.
            text = "\n".join(map(str, conflicts))
            raise PydanticCustomError(CONFLICTS, "{text}", {"text": text, CONFLICTS: conflicts})
        return self


def chosen_stages(recipe: Recipe, *, until: str | None, only: str | None) -> Sequence[str]:
    """The stages to be made now. Raises RecipeError for a name the recipe does not have."""
    for name in (until, only):
        if name is not None and name not in recipe.stages:
            what = f"the recipe has no stage '{name}'{did_you_mean(name, recipe.stages)}"
            raise RecipeError("--until" if name == until else "--only", what, "name a stage of the recipe")
    if only is not None:
        return (only,)
    return recipe.stages[: recipe.stages.index(until) + 1] if until is not None else recipe.stages
