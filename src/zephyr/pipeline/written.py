"""The files that a run leaves behind, by stage: what a user may look for there afterwards."""

from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PretrainSection
from zephyr.runs.layout import (
    ADAPTER,
    LOCK_FILE,
    MODEL,
    OUTCOME,
    STAGE_FILE,
    SUMMARY,
    TOKENS,
    TRAIN,
    TRAIN_LOG,
)
from zephyr.stages import deliver, evaluate, feedback, synth

RUN_FILES = (LOCK_FILE, SUMMARY)


def files_of(recipe: Recipe, stage: str) -> list[str]:
    """The names in the finished folder of a stage, folders with a stroke behind."""
    match stage:
        case synth.STAGE.name:
            made = synth.STAGE.outputs(recipe)
        case "feedback":
            made = feedback.STAGE.outputs(recipe)
        case "evaluate":
            made = evaluate.STAGE.outputs(recipe)
        case deliver.STAGE.name:
            made = deliver.STAGE.outputs(recipe)
        case _:
            made = _of_training(recipe, stage)
    return [*made, STAGE_FILE]


def run_files(recipe: Recipe) -> list[str]:
    """The names in the run's folder beside those of the stages."""
    align = recipe.align
    has_reference = align is not None and align.objective.name in ("dpo", "kto", "listwise")
    return [*RUN_FILES, *(["reference/"] if has_reference else [])]


def _of_training(recipe: Recipe, stage: str) -> list[str]:
    section = getattr(recipe, stage)
    made = [f"{MODEL}/", f"{TOKENS}/", f"{TRAIN}/{TRAIN_LOG}", OUTCOME]
    if isinstance(section, PretrainSection):
        return [*made, "start/"] if isinstance(recipe.model, NewModel) else made
    return [*made, f"{ADAPTER}/"] if section.lora is not None else made
