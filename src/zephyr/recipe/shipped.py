"""The recipes that come with Zephyr: where they lie, what their headers say, and copying one.

Every recipe begins with a comment whose first line says what it makes, and whose others name machine, time,
source, and what differs from the published run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import RecipeError, did_you_mean

# In a wheel the recipes lie inside the package, in a checkout at its root.
FOLDERS = (Path(__file__).parent / "shipped_files", Path(__file__).resolve().parents[3] / "recipes")


class Shipped(NamedTuple):
    """A recipe that comes with Zephyr; `header` holds the lines of its first comment."""

    name: str
    path: Path
    header: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What it makes, in a line."""
        return self.header[0] if self.header else ""


def shipped_recipes() -> list[Shipped]:
    """All recipes that come with Zephyr, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    paths = sorted(folder.glob("*.yaml")) if folder is not None else []
    return [Shipped(path.stem, path, tuple(_header(path.read_text(encoding="utf-8")))) for path in paths]


def find_shipped(name: str) -> Shipped:
    """The shipped recipe of that name. Raises RecipeError with the nearest name or file if there is none."""
    recipes = {recipe.name: recipe for recipe in shipped_recipes()}
    wanted = name.removesuffix(".yaml")
    if wanted not in recipes:
        files = [file.name for file in Path(name).parent.glob("*.y*ml")]
        nearest = did_you_mean(Path(name).name, files)
        if "did you mean" not in nearest:
            nearest = did_you_mean(Path(wanted).stem, recipes)
        nearest = nearest.removeprefix("; ")
        raise RecipeError(name, "there is no such file, and no recipe of this name comes with Zephyr", nearest)
    return recipes[wanted]


def copy_recipe(name: str, folder: Path) -> Path:
    """The path of a new copy of a shipped recipe in `folder`. Raises RecipeError if it exists or cannot be written."""
    recipe = find_shipped(name)
    target = folder / recipe.path.name
    if folder.exists() and not folder.is_dir():
        raise RecipeError(str(folder), "is not a folder", "choose another path")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(recipe.path.read_bytes())
    except FileExistsError as error:
        raise RecipeError(str(target), "already exists", "move it away, or choose another folder") from error
    except OSError as error:
        raise RecipeError(str(target), f"cannot be written ({error.strerror})", "name another folder") from error
    return target


def _header(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()
