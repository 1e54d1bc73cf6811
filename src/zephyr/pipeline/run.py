"""`zephyr run`: a recipe from its first stage to its last."""

import logging

from rich.console import Console
from rich.markup import escape

from zephyr.data.read.stage_rows import hash_of_source
from zephyr.pipeline.ahead import look_ahead
from zephyr.pipeline.execute import chosen_stages, execute
from zephyr.pipeline.lock_file import Pinned, check_inputs, write_lock_file
from zephyr.pipeline.make_models import make_align, make_pretrain, make_sft
from zephyr.pipeline.ready import base_source
from zephyr.pipeline.stages import Maker, plan_stages
from zephyr.pipeline.summary import print_summary, write_summary
from zephyr.recipe.model_section import PretrainedModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.records.fields import printable
from zephyr.runs.lock import hold_lock
from zephyr.runs.ranks import is_leader
from zephyr.stages import deliver, evaluate, feedback, synth

MAKERS: dict[str, Maker] = {
    synth.STAGE.name: synth.STAGE.run,
    "pretrain": make_pretrain,
    "sft": make_sft,
    "feedback": feedback.STAGE.run,
    "align": make_align,
    "evaluate": evaluate.STAGE.run,
    deliver.STAGE.name: deliver.STAGE.run,
}


def run_recipe(
    recipe: Recipe, *, until: str | None, only: str | None, pinned: Pinned | None, console: Console
) -> dict[str, Plain]:
    """The summary of the run, whose stages are finished then; what was finished before is not made again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder = recipe.output_dir / recipe.name
    stages = chosen_stages(recipe, until=until, only=only)
    planned = plan_stages(recipe, lambda source: hash_of_source(recipe, source))
    if pinned is not None:
        check_inputs(pinned, planned)

    def say(line: str) -> None:
        if is_leader():
            console.print(escape(printable(line)), soft_wrap=True, highlight=False)

    def go_on() -> dict[str, Plain]:
        outcome = execute(recipe, planned, MAKERS, run_folder=folder, stages=stages, say=say)
        if not is_leader():
            return {}
        summary = write_summary(recipe, outcome)
        print_summary(console, outcome, summary)
        return summary

    if not is_leader():
        return go_on()
    with hold_lock(folder):
        write_lock_file(folder, recipe, planned, model_revision=_revision(recipe))
        look_ahead(recipe, planned, run_folder=folder, stages=stages, say=say)
        return go_on()


def _revision(recipe: Recipe) -> str | None:
    """The commit of a model on the hub, None for a folder or a new model."""
    from zephyr.models.weight_hash import resolved_revision

    return resolved_revision(base_source(recipe)) if isinstance(recipe.model, PretrainedModel) else None
