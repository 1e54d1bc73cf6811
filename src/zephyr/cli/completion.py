"""What a shell offers when Tab is pressed: recipes, keys of overrides, names of stages."""

from collections.abc import Sequence

import typer


def complete_recipes(incomplete: str) -> list[str]:
    """The names of shipped recipes that begin so; files are offered by the shell where none does."""
    from zephyr.recipe.shipped import shipped_recipes

    return [recipe.name for recipe in shipped_recipes() if recipe.name.startswith(incomplete)]


def complete_overrides(incomplete: str) -> list[str]:
    """The keys that a recipe may have, section by section, each with its = at the end."""
    if "=" in incomplete:
        return []
    from zephyr.recipe.outline import all_keys
    from zephyr.recipe.schema import Recipe

    keys = sorted({*all_keys(Recipe)})
    sections = {key.rpartition(".")[0] for key in keys}
    found = [key for key in keys if key.startswith(incomplete) and "." not in key[len(incomplete) :]]
    # A shell ends a word that is complete, so a section that stands alone is opened.
    while len(found) == 1 and found[0] in sections:
        inside = f"{found[0]}."
        found = [key for key in keys if key.startswith(inside) and "." not in key[len(inside) :]]
    return [f"{key}." if key in sections else f"{key}=" for key in found]


def complete_stages(ctx: typer.Context, incomplete: str) -> list[str]:
    """The stages of the recipe on the line that begin so; all that there are where it cannot be read."""
    from zephyr.errors import ZephyrError
    from zephyr.recipe.loading import read_recipe
    from zephyr.recipe.stage_sections import STAGE_NAMES

    try:
        names: Sequence[str] = read_recipe(str(ctx.params.get("recipe")), []).recipe.stages
    except ZephyrError:
        names = STAGE_NAMES
    return [name for name in names if name.startswith(incomplete)]
