"""`run.lock.json`: all that is needed to repeat a run; and the recipe of a command, from a file or a lock file."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from zephyr import __version__
from zephyr.atomic import replace_text
from zephyr.errors import DataError, RecipeError
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.recipe.loading import read_recipe
from zephyr.recipe.model_section import PretrainedModel
from zephyr.recipe.objective_section import CustomObjective
from zephyr.recipe.overrides import Override
from zephyr.recipe.schema import Recipe
from zephyr.records.fields import printable
from zephyr.runs.layout import LOCK_FILE
from zephyr.runs.stage_folder import StageKey

FORMAT = 1
# Settings of no result, which differ between machines.
_PLACES = ("data_dir", "output_dir")
_MEASURED_DTYPE = "measured_inference_dtype"
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "datasets", "pydantic")


@dataclass(frozen=True)
class Pinned:
    """What a lock file pins: the recipe, and the hashes of the data it was run on, by stage."""

    recipe: Mapping[str, object]
    inputs: Mapping[str, Mapping[str, str]]


class RequestedRun(NamedTuple):
    """The recipe of a command, notes on what was translated, and what a lock file pins, if it came from one."""

    recipe: Recipe
    notes: tuple[str, ...] = ()
    pinned: Pinned | None = None


def requested_run(
    name: str, overrides: Sequence[str | Override], *, offline: bool, user_code: bool = True
) -> RequestedRun:
    """The recipe of a file, of a shipped name, or of an earlier run's lock file. Raises RecipeError.

    Without ``user_code`` one that would run Python code from outside Zephyr is refused.
    """
    if name.endswith(LOCK_FILE):
        places = _places(name, overrides)
        pinned = read_lock_file(Path(name))
        requested = RequestedRun(Recipe.model_validate({**pinned.recipe, **places}), pinned=pinned)
    else:
        loaded = read_recipe(name, overrides)
        requested = RequestedRun(loaded.recipe, loaded.notes)
    recipe = requested.recipe
    if not user_code:
        _refuse_user_code(recipe)
    if not recipe.data_dir.is_dir():
        folder = printable(str(recipe.data_dir.absolute()))
        raise RecipeError("data_dir", f"there is no folder {folder}", "give data_dir=FOLDER")
    _require_files(recipe)
    return requested._replace(recipe=recipe.model_copy(update={"offline": recipe.offline or offline}))


def _require_files(recipe: Recipe) -> None:
    """Raise RecipeError, before anything heavy is loaded, for a file of a user's own settings that is not there."""
    objective = recipe.align.objective if recipe.align is not None else None
    if isinstance(objective, CustomObjective):
        objective.file(recipe.data_dir)
    rubric = None if recipe.feedback is None else recipe.feedback.judging.below(recipe.data_dir).rubric
    if rubric is not None and not rubric.is_file():
        what = f"there is no file {printable(str(rubric))}"
        raise RecipeError("feedback.judging.rubric", what, "name a rubric, relative to data_dir")


def _places(name: str, overrides: Sequence[str | Override]) -> dict[str, str]:
    """Where a locked run reads its data and writes, if elsewhere now. Raises RecipeError for other settings."""
    written = [_shown(one).partition("=") for one in overrides]
    other = next((key + equals + value for key, equals, value in written if key not in _PLACES or not value), None)
    if other is not None:
        what = f"a locked run takes no overrides but {' and '.join(_PLACES)}, got {other}"
        raise RecipeError(name, what, "leave it out")
    return {key: value for key, _, value in written}


def _shown(override: str | Override) -> str:
    return override if isinstance(override, str) else f"{override.path}={override.value}"


def _refuse_user_code(recipe: Recipe) -> None:
    """Raise RecipeError for the first setting that runs code from outside."""
    objective = recipe.align.objective if recipe.align is not None else None
    if isinstance(objective, CustomObjective):
        what = f"runs {printable(objective.path)}, which --no-user-code refuses"
        raise RecipeError("align.objective.path", what, "choose an objective of Zephyr, or leave the option out")
    for number, task in enumerate(recipe.evaluate.tasks if recipe.evaluate is not None else []):
        if isinstance(task, HarnessTask) and task.include_path is not None:
            what = f"may run code in {printable(str(task.include_path))}, which --no-user-code refuses"
            raise RecipeError(f"evaluate.tasks.{number}.include_path", what, "choose tasks of lm-eval, or leave it out")
    if isinstance(recipe.model, PretrainedModel) and recipe.model.trusted_code is not None:
        what = f"runs code of {printable(recipe.model.trusted_code.repository)}, which --no-user-code refuses"
        raise RecipeError("model.trusted_code", what, "choose a model that needs none, or leave the option out")


def write_lock_file(
    folder: Path,
    recipe: Recipe,
    keys: Mapping[str, StageKey],
    *,
    model_revision: str | None,
    hub_sources: Sequence[str],
    measured: str | None,
) -> None:
    """Write what this run is made from into its folder.

    `hub_sources`: the data that it reads from the hub. `measured`: the dtype that `fastest` stands for in this run, if
    its recipe asks for it; once measured it is kept, whatever a later recipe asks for.
    """
    content = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "model_revision": model_revision,
        "hub_sources": list(hub_sources),
        "stages": {stage: {"key": key.digest, "inputs": key.inputs} for stage, key in keys.items()},
        "packages": {"zephyr": __version__} | {name: found for name in _PACKAGES if (found := _version(name))},
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            _MEASURED_DTYPE: measured or measured_dtype(folder),
        },
    }
    replace_text(folder / LOCK_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def measured_dtype(folder: Path) -> str | None:
    """The dtype in which models answer in the run of this folder, if it was measured when the run began."""
    try:
        content = json.loads((folder / LOCK_FILE).read_bytes())
        return str(content["machine"][_MEASURED_DTYPE] or "") or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
            str(path), f"is not a {LOCK_FILE} ({error})", "name the lock file of a run, or a recipe"
        ) from error


def check_inputs(pinned: Pinned, keys: Mapping[str, StageKey]) -> None:
    """Check that all data from outside is what it was. Raises DataError naming what has changed."""
    changed = [
        f"{stage}: {name}"
        for stage, key in keys.items()
        for name, digest in key.inputs.items()
        if name not in keys and pinned.inputs.get(stage, {}).get(name, digest) != digest
    ]
    if changed:
        where = f"{len(changed)} of the inputs"
        raise DataError(where, f"have changed since the locked run: {', '.join(changed[:5])}", "restore them")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
