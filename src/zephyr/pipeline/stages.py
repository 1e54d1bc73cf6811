"""The stages of a run, and what each depends on: its settings, the stages before it, and data from outside."""

from collections.abc import Callable
from typing import NamedTuple

from zephyr.errors import Problems
from zephyr.recipe.data_section import DataSection, DataSource, DecontaminationFilter
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.runs.stage_folder import Facts, StageKey, flatten
from zephyr.stages import evaluate, synth
from zephyr.stages.stage import Work

# Raised when a stage's code begins to make something else of the same settings.
_VERSIONS = {"synth": 1, "pretrain": 1, "sft": 1, "feedback": 1, "align": 1, "evaluate": 1, "deliver": 2}
TRAINING = ("pretrain", "sft", "align")


class Planned(NamedTuple):
    """A stage of a run, by the name and the key that its result will have."""

    stage: str
    key: StageKey


Maker = Callable[[Work], Facts]


def plan_stages(recipe: Recipe, source_hash: Callable[[DataSource], str]) -> list[Planned]:
    """The stages of the recipe in order, each keyed by what it depends on. Raises what is wrong with any source."""
    planned: dict[str, Planned] = {}
    problems = Problems()
    for stage in recipe.stages:
        inputs = {taken: planned[taken].key.digest for taken in taken_stages(recipe, stage)}
        hashes: dict[str, str] = {}
        for source in outside_data(recipe, stage):
            with problems.noted():
                hashes[f"{source.path} ({source.split})"] = source_hash(source)
        planned[stage] = Planned(stage, StageKey(stage, _settings(recipe, stage), inputs | hashes))
    problems.raise_any()
    return list(planned.values())


def taken_stages(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The stages whose results this one reads."""
    from zephyr.stages import feedback

    present = recipe.stages[: recipe.stages.index(stage)]
    wanted: tuple[str | None, ...]
    match stage:
        case "synth":
            wanted = ()
        case "pretrain" | "sft":
            wanted = (starting_model(recipe, stage), None if _has_sources(recipe, stage) else "synth")
        case "feedback":
            wanted = feedback.STAGE.reads(recipe)
        case "align":
            wanted = (starting_model(recipe, stage), None if _has_sources(recipe, stage) else "feedback")
        case "evaluate":
            wanted = evaluate.STAGE.reads(recipe)
        case _:
            wanted = present
    return tuple(name for name in wanted if name in present)


def outside_data(recipe: Recipe, stage: str) -> list[DataSource]:
    """The data from outside that a stage reads."""
    from zephyr.stages import feedback

    section = getattr(recipe, stage)
    data = getattr(section, "data", None)
    if isinstance(data, DataSection):
        against = [path for one in data.filters if isinstance(one, DecontaminationFilter) for path in one.against]
        return [*data.sources, *data.eval_sources, *(DataSource(path=path) for path in against)]
    if stage == "synth":
        return list(synth.STAGE.sources(recipe))
    if stage == "feedback" and recipe.feedback is not None:
        return list(feedback.STAGE.sources(recipe))
    if stage == "evaluate" and recipe.evaluate is not None:
        return list(evaluate.STAGE.sources(recipe))
    return []


def starting_model(recipe: Recipe, stage: str) -> str | None:
    """The stage whose model this training stage starts from; None for a model from outside."""
    if stage == "align" and recipe.align is not None and recipe.align.start is not None:
        return None
    before = [name for name in ("pretrain", "sft") if name in recipe.stages[: recipe.stages.index(stage)]]
    return before[-1] if before else None


def _has_sources(recipe: Recipe, stage: str) -> bool:
    data: DataSection = getattr(recipe, stage).data
    return bool(data.sources)


def _settings(recipe: Recipe, stage: str) -> dict[str, Plain]:
    """All settings the stage's result depends on, by dotted key."""
    nested: dict[str, Plain] = {stage: getattr(recipe, stage).result_settings()}
    nested["seed"] = recipe.seed
    if stage not in ("synth", "deliver"):
        nested["chat_template"] = recipe.template_of(stage).model_dump(mode="json")
    if stage == "pretrain" or (stage in (*TRAINING, "evaluate", "feedback") and starting_model(recipe, stage) is None):
        nested["model"] = recipe.model.model_dump(mode="json")
    flat = {name.removeprefix("."): value for name, value in flatten(nested, "").items()}
    return flat | {f"{stage}.version": _VERSIONS[stage]}
