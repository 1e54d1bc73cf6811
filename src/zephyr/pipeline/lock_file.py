"""`run.lock.json`: all that is needed to repeat a run, and to know later what it was made with."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from zephyr import __version__
from zephyr.atomic import replace_text
from zephyr.errors import DataError, RecipeError
from zephyr.pipeline.stages import Planned
from zephyr.recipe.schema import Recipe
from zephyr.runs.layout import LOCK_FILE

FORMAT = 1
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "datasets", "pydantic")


@dataclass(frozen=True)
class Pinned:
    """What a lock file pins: the recipe, and the hashes of the data it was run on, by stage."""

    recipe: Mapping[str, object]
    inputs: Mapping[str, Mapping[str, str]]


def write_lock_file(folder: Path, recipe: Recipe, planned: list[Planned], *, model_revision: str | None) -> None:
    """Write what this run is made from into its folder."""
    content = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "model_revision": model_revision,
        "stages": {one.stage: {"key": one.key.digest, "inputs": one.key.inputs} for one in planned},
        "packages": {"zephyr": __version__} | {name: found for name in _PACKAGES if (found := _version(name))},
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
    }
    replace_text(folder / LOCK_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_lock_file(path: Path) -> Pinned:
    """What the lock file pins. Raises RecipeError where it is none."""
    try:
        content = json.loads(path.read_bytes())
        recipe, stages = content["recipe"], content["stages"]
        if content["model_revision"] and recipe["model"]["kind"] == "pretrained":
            recipe["model"]["revision"] = content["model_revision"]
        return Pinned(recipe, {name: dict(stage["inputs"]) for name, stage in stages.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            str(path), f"is no {LOCK_FILE} ({error})", "name the lock file of a run, or a recipe"
        ) from error


def check_inputs(pinned: Pinned, planned: list[Planned]) -> None:
    """Nothing, if all data from outside is what it was. Raises DataError naming what has changed."""
    changed = [
        f"{one.stage}: {name}"
        for one in planned
        for name, digest in one.key.inputs.items()
        if _is_outside(name, planned) and pinned.inputs.get(one.stage, {}).get(name, digest) != digest
    ]
    if changed:
        where = f"{len(changed)} of the inputs"
        raise DataError(where, f"are not what they were in the locked run: {', '.join(changed[:5])}", "bring them back")


def _is_outside(name: str, planned: list[Planned]) -> bool:
    return name not in {one.stage for one in planned}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
