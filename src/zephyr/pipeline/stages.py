"""The stages of a run, and what each depends on: its settings, the stages before it, and data from outside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import Problems
from zephyr.recipe.data_section import DataSection, DataSource, DecontaminationFilter
from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import SelfInstructSynth, UltraChatSynth
from zephyr.runs.stage_folder import Facts, Plain, StageKey, flatten

# What changes the way a stage is done, or what is said of it, but never its result.
_FREE_SETTINGS = (
    "train.save_steps", "train.save_seconds", "train.save_total_limit", "train.report_to", "train.self_checks",
)  # fmt: skip
# Of teachers: how they are reached and what they may cost, by their names.
_FREE_OF_TEACHERS = {
    "endpoint": (
        "api_key_env", "headers", "concurrency", "requests_per_minute", "tokens_per_minute", "deadline_seconds",
        "max_tries", "batch", "prices", "max_total_tokens", "max_total_price",
    ),
    "vllm": ("num_gpus", "memory_share"),
}  # fmt: skip
_FREE_OF_RAY = ("ray.num_workers", "ray.cpus_per_worker", "ray.gpus_per_worker")
# How an endpoint is asked, but not what: who raises a cap goes on with the same stage.
_FREE_OF_ENDPOINTS = (
    "api_key_env", "batch", "concurrency", "deadline_seconds", "max_total_price", "max_total_tokens", "max_tries",
    "prices", "requests_per_minute", "tokens_per_minute",
)  # fmt: skip
# Raised when a stage's code begins to make something else of the same settings.
_VERSIONS = {"synth": 1, "pretrain": 1, "sft": 1, "feedback": 1, "align": 1, "evaluate": 1, "deliver": 2}
TRAINING = ("pretrain", "sft", "align")


@dataclass(frozen=True)
class Work:
    """What a stage is made from: the recipe, its own folder, and the finished folders of the stages it takes."""

    recipe: Recipe
    stage: str
    folder: Path
    inputs: Mapping[str, Path]
    run_folder: Path


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
    present = recipe.stages[: recipe.stages.index(stage)]
    wanted: tuple[str | None, ...]
    match stage:
        case "synth":
            wanted = ()
        case "pretrain" | "sft":
            wanted = (starting_model(recipe, stage), None if _has_sources(recipe, stage) else "synth")
        case "feedback":
            wanted = _taken_by_feedback(recipe)
        case "align":
            wanted = (starting_model(recipe, stage), None if _has_sources(recipe, stage) else "feedback")
        case "evaluate":
            wanted = ("pretrain", "sft", "align")
        case _:
            wanted = present
    return tuple(name for name in wanted if name in present)


def outside_data(recipe: Recipe, stage: str) -> list[DataSource]:
    """The data from outside that a stage reads."""
    section = getattr(recipe, stage)
    data = getattr(section, "data", None)
    if isinstance(data, DataSection):
        against = [path for one in data.filters if isinstance(one, DecontaminationFilter) for path in one.against]
        return [*data.sources, *data.eval_sources, *(DataSource(path=path) for path in against)]
    if stage == "synth" and recipe.synth is not None:
        generator = recipe.synth.generator
        seeds = [DataSource(path=generator.seeds)] if isinstance(generator, SelfInstructSynth) else []
        return [*seeds, *(generator.passages if isinstance(generator, UltraChatSynth) else [])]
    if stage == "feedback" and recipe.feedback is not None:
        return [*recipe.feedback.prompts, *recipe.feedback.recorded]
    if stage == "evaluate" and recipe.evaluate is not None:
        return [source for task in recipe.evaluate.tasks for source in getattr(task, "sources", [])]
    return []


def starting_model(recipe: Recipe, stage: str) -> str | None:
    """The stage whose model this training stage starts from; None for a model from outside."""
    if stage == "align" and recipe.align is not None and recipe.align.start is not None:
        return None
    before = [name for name in ("pretrain", "sft") if name in recipe.stages[: recipe.stages.index(stage)]]
    return before[-1] if before else None


def _taken_by_feedback(recipe: Recipe) -> tuple[str, ...]:
    section = recipe.feedback
    if section is None or section.recorded:
        return ()
    return ("sft", *(() if section.prompts else ("synth",)))


def _has_sources(recipe: Recipe, stage: str) -> bool:
    data: DataSection = getattr(recipe, stage).data
    return bool(data.sources)


def _settings(recipe: Recipe, stage: str) -> dict[str, Plain]:
    """All settings the stage's result depends on, by dotted key."""
    nested: dict[str, Plain] = {stage: _without_ways(getattr(recipe, stage).model_dump(mode="json"))}
    nested["seed"] = recipe.seed
    if stage not in ("synth", "deliver"):
        nested["chat_template"] = recipe.template_of(stage).model_dump(mode="json")
    if stage == "pretrain" or (stage in (*TRAINING, "evaluate", "feedback") and starting_model(recipe, stage) is None):
        nested["model"] = recipe.model.model_dump(mode="json")
    flat = {name.removeprefix("."): value for name, value in flatten(nested, "").items()}
    free = {f"{stage}.{name}" for name in (*_FREE_SETTINGS, *_FREE_OF_RAY)}
    return {name: value for name, value in flat.items() if name not in free} | {f"{stage}.version": _VERSIONS[stage]}


def _without_ways(value: Plain) -> Plain:
    """The settings without how teachers are reached."""
    if isinstance(value, list):
        return [_without_ways(one) for one in value]
    if not isinstance(value, dict):
        return value
    free = _FREE_OF_TEACHERS.get(str(value.get("name")), ())
    return {name: _without_ways(one) for name, one in value.items() if name not in free}


def _without_free(value: Plain) -> Plain:
    """The settings without what is free of endpoints, wherever in them these stand."""
    if isinstance(value, list):
        return [_without_free(one) for one in value]
    if not isinstance(value, dict):
        return value
    free = _FREE_OF_ENDPOINTS if value.get("name") == "endpoint" else ()
    return {name: _without_free(inner) for name, inner in value.items() if name not in free}
