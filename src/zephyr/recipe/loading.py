"""Reading a recipe: from a file or by its name, with overrides, and writing it out again."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from zephyr.errors import RecipeError
from zephyr.recipe.feedback_section import REWARD_MODEL, ChecksSection, JudgeSection
from zephyr.recipe.handbook.keys import OLD_KEYS, OURS, is_handbook
from zephyr.recipe.outline import Keys, fill_tags, value_at
from zephyr.recipe.overrides import Override, apply_overrides, parse_overrides
from zephyr.recipe.problems import broken
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.shipped import find_shipped
from zephyr.recipe.teacher_section import TeacherSection
from zephyr.recipe.validating import validate
from zephyr.recipe.yaml_text import read_yaml

if TYPE_CHECKING:
    from zephyr.recipe.handbook.translating import Translated

LOG = logging.getLogger(__name__)
MAX_BYTES = 2**20


class LoadedRecipe(NamedTuple):
    """A recipe, the file it was read from, and a line for everything that was translated or left out."""

    recipe: Recipe
    file: Path
    notes: tuple[str, ...]


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or of that name among the shipped ones; what was left out is logged.

    `overrides`: settings of the form align.train.learning_rate=1.0e-6. Raises RecipeError with all problems at once.
    """
    loaded = read_recipe(path_or_name, overrides)
    for note in loaded.notes:
        LOG.warning("%s: %s", loaded.file, note)
    return loaded.recipe


def read_recipe(path_or_name: str, overrides: Sequence[str | Override] = ()) -> LoadedRecipe:
    """Like `load_recipe`, but returns the notes instead of logging them. Raises RecipeError."""
    parsed = parse_overrides(overrides)
    file = _find(path_or_name)
    document = read_yaml(_read_text(file), str(file))
    if not isinstance(document.value, dict):
        empty = document.value is None
        what = "is empty" if empty else f"holds {type(document.value).__name__} {document.value!r:.40} and no keys"
        raise RecipeError(str(file), what, "begin with `zephyr recipes copy quickstart`")
    places = {keys: f"line {line}" for keys, line in document.lines.items()}
    trainer = other_trainer(document.value)
    if trainer is not None:
        return _translated(file, document.value, parsed, places, trainer)
    return _finish(file, document.value, parsed, places, notes=())


class OtherTrainer(NamedTuple):
    """Whose file it is, the keys that an override may be written in, and the function that translates it."""

    name: str
    keys: Collection[str]
    translate: "Callable[[dict[str, Plain], Path, dict[Keys, str]], Translated]"


def other_trainer(data: Mapping[str, Plain]) -> OtherTrainer | None:
    """The trainer that the keys of a file belong to; None for a recipe."""
    if not data.keys().isdisjoint(OURS):
        return None
    from zephyr.recipe.imports import axolotl, llama_factory  # tables that no recipe needs

    if "base_model" in data and not data.keys().isdisjoint(axolotl.MARKERS[1:]):
        return OtherTrainer("axolotl", axolotl.KEYS, axolotl.translate_axolotl)
    if "model_name_or_path" in data and not data.keys().isdisjoint(llama_factory.MARKERS):
        return OtherTrainer("LLaMA-Factory", llama_factory.KEYS, llama_factory.translate_llama_factory)
    if is_handbook(data):
        from zephyr.recipe.handbook.translating import translate

        return OtherTrainer("TRL or the alignment-handbook", OLD_KEYS, translate)
    return None


def _translated(
    file: Path, old: dict[str, Plain], overrides: Sequence[Override], places: dict[Keys, str], trainer: OtherTrainer
) -> LoadedRecipe:
    """The recipe that another trainer's file stands for; overrides may be written in its keys or in ours."""
    theirs = [one for one in overrides if one.path in trainer.keys and one.path not in ("seed", "output_dir")]
    for override in theirs:
        old[override.path] = override.value
        places[override.path,] = "override"
    translated = trainer.translate(old, file, places)
    ours = [override for override in overrides if override not in theirs]
    written = {new: f"{places.get((key,), 'default')} ({key})" for new, key in translated.origins.items()}
    return _finish(file, translated.data, ours, written, notes=tuple(translated.notes))


def _finish(
    file: Path,
    data: dict[str, Plain],
    overrides: Sequence[Override],
    places: Mapping[Keys, str],
    *,
    notes: tuple[str, ...],
) -> LoadedRecipe:
    """The recipe in the data with overrides in it."""
    overridden = apply_overrides(fill_tags(data), overrides)
    made = {keys[:end]: "override" for keys in overridden.keys for end in range(1, len(keys))}
    recipe = recipe_of(overridden.data, str(file), {**made, **places, **dict.fromkeys(overridden.keys, "override")})
    return LoadedRecipe(recipe, file, (*notes, *overridden.notes))


def recipe_of(data: Plain, where: str, places: Mapping[Keys, str]) -> Recipe:
    """The recipe in the data; `places`: where keys were written. Raises RecipeError with all problems at once."""
    result = validate(fill_tags(data))
    if isinstance(result, list):
        raise broken(where, result, places)
    return result


def read_teacher(file: Path) -> TeacherSection:
    """The teacher in a file that holds only its section of a recipe. Raises RecipeError with all problems at once."""
    recipe = _read_part(file, ("synth", "teacher"), lambda part: {"synth": {"teacher": part}})
    assert recipe.synth is not None
    return recipe.synth.teacher


def read_judge(file: Path) -> JudgeSection:
    """The judge in a file that holds only its section of a recipe. Raises RecipeError with all problems at once."""
    document = read_yaml(_read_text(file), str(file)).value
    if not isinstance(document, dict) or document.get("name") not in (ChecksSection().name, REWARD_MODEL):
        return read_teacher(file)
    candidates: Plain = {"models": ["none"]}
    around: dict[str, Plain] = {"prompts": [{"path": "none"}], "candidates": candidates}
    recipe = _read_part(file, ("feedback", "judge"), lambda part: {"feedback": {**around, "judge": part}})
    assert recipe.feedback is not None
    return recipe.feedback.judge


def _read_part(file: Path, above: Keys, placed: Callable[[Plain], dict[str, Plain]]) -> Recipe:
    """A recipe with the file's section in the place `above`. Raises RecipeError with all problems at once."""
    document = read_yaml(_read_text(file), str(file))
    around: dict[str, Plain] = {"name": "teacher", "model": {"kind": "pretrained", "name_or_path": "none"}}
    result = validate(fill_tags({**around, **placed(document.value)}))
    if isinstance(result, list):
        problems = [problem._replace(keys=problem.keys[len(above) :] or ("name",)) for problem in result]
        raise broken(str(file), problems, {keys: f"line {line}" for keys, line in document.lines.items()})
    return result


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe with all defaults written out, as YAML that loads as the same recipe."""
    plain = recipe.model_dump(mode="json")
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    return text


def short_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that loads as the same recipe, without the settings that are as by default."""
    plain: dict[str, Plain] = recipe.model_dump(mode="json", exclude_defaults=True)
    # The tags of sections whose other keys are written.
    if isinstance(model := plain.get("model"), dict):
        model["kind"] = recipe.model.kind
    objective = value_at(("align", "objective"), plain)
    if recipe.align is not None and isinstance(objective, dict):
        objective["name"] = recipe.align.objective.name
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    return text


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name).expanduser()
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise RecipeError(path_or_name, "is a folder", "name a YAML file in it")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path_or_name:.60}", f"cannot be a path ({error})", "name a file or a recipe") from error
    return find_shipped(path_or_name).path


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RecipeError(
            str(file), f"cannot be read ({error.strerror})", "check the file and its permissions"
        ) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(str(file), f"is not a recipe: it has {len(content):,} bytes", "name a YAML recipe")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(str(file), f"line {line}: is not UTF-8 text", "save it as UTF-8") from error
