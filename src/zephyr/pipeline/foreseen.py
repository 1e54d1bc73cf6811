"""Rows that a stage of the run will make, known before it where a rule makes them: a sample of them is made ahead."""

from pathlib import Path
from typing import NamedTuple

from zephyr.pipeline.make_synth import make_synth
from zephyr.pipeline.prepare import MADE_ROWS
from zephyr.recipe.schema import Recipe
from zephyr.recipe.synth_section import WorldSynth
from zephyr.recipe.teacher_section import ScriptedSection
from zephyr.stages.stage import Work

# As many as a check looks at.
MADE_AHEAD = 1000


class Foreseen(NamedTuple):
    """A file of rows such as the run will make, and how many the run will make."""

    file: Path
    num_rows: int


def synth_sample(recipe: Recipe, folder: Path) -> dict[str, Foreseen]:
    """The rows of synth by the stage that takes them, a sample of which stands in the folder afterwards.

    Nothing where a model writes them: that would take the run's time and money.
    """
    synth = recipe.synth
    if synth is None or not isinstance(synth.generator, WorldSynth) or not isinstance(synth.teacher, ScriptedSection):
        return {}
    counts = {"sft": synth.generator.num_dialogues, "pretrain": synth.generator.num_pretrain_texts}
    small = {
        "num_dialogues": min(MADE_AHEAD, synth.generator.num_dialogues),
        "num_pretrain_texts": min(MADE_AHEAD, synth.generator.num_pretrain_texts),
        "num_feedback_prompts": 0,
    }
    fewer = synth.model_copy(update={"generator": synth.generator.model_copy(update=small)})
    folder.mkdir(parents=True)
    make_synth(Work(recipe.model_copy(update={"synth": fewer}), "synth", folder, {}, folder))
    return {
        stage: Foreseen(folder / MADE_ROWS[stage][1], number)
        for stage, number in counts.items()
        if number and (section := getattr(recipe, stage)) is not None and not section.data.sources
    }


def num_world_prompts(recipe: Recipe) -> int | None:
    """How many prompts the feedback stage will get from synth; None where that is not known before."""
    synth = recipe.synth
    return synth.generator.num_feedback_prompts if synth and isinstance(synth.generator, WorldSynth) else None
