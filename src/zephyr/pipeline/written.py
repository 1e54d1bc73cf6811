"""The files that a run leaves behind, by stage: what a user may look for there afterwards."""

from zephyr.pipeline.tokens import TOKENS
from zephyr.pipeline.training import ADAPTER, OUTCOME
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PretrainSection
from zephyr.recipe.synth_section import SelfInstructSynth, WorldSynth
from zephyr.recipe.teacher_section import EndpointSection, ScriptedSection
from zephyr.runs.stage_folder import MODEL, STAGE
from zephyr.train.tracker import LOG

RUN_FILES = ("run.lock.json", "summary.json")


def files_of(recipe: Recipe, stage: str) -> list[str]:
    """The names in the finished folder of a stage, folders with a stroke behind."""
    match stage:
        case "synth":
            made = _of_synth(recipe)
        case "feedback":
            made = ["pairs.jsonl"]
            if recipe.feedback is not None and not recipe.feedback.recorded:
                made += ["candidates.jsonl", "ratings.jsonl", "calls.jsonl", "calls.sqlite", "counts.json"]
        case "evaluate":
            made = ["samples.json", "a file for every measurement"]
        case "deliver":
            made = ["report.html", "README.md"]
        case _:
            made = _of_training(recipe, stage)
    return [*made, STAGE]


def run_files(recipe: Recipe) -> list[str]:
    """The names in the run's folder beside those of the stages."""
    align = recipe.align
    has_reference = align is not None and align.objective.name in ("dpo", "kto", "listwise")
    return [*RUN_FILES, *(["reference/"] if has_reference else [])]


def _of_synth(recipe: Recipe) -> list[str]:
    assert recipe.synth is not None
    generator, teacher = recipe.synth.generator, recipe.synth.teacher
    made = ["dialogues.jsonl", "prompts.jsonl"]
    if isinstance(generator, WorldSynth):
        return [*made, "texts.jsonl"]
    if isinstance(generator, SelfInstructSynth):
        made += ["instructions.jsonl", "tasks.jsonl", "rounds.jsonl"]
    return made if isinstance(teacher, ScriptedSection | EndpointSection) else [*made, "calls.sqlite"]


def _of_training(recipe: Recipe, stage: str) -> list[str]:
    section = getattr(recipe, stage)
    made = [f"{MODEL}/", f"{TOKENS}/", f"train/{LOG}", OUTCOME]
    if isinstance(section, PretrainSection):
        return [*made, "start/"] if isinstance(recipe.model, NewModel) else made
    return [*made, f"{ADAPTER}/"] if section.lora is not None else made
