"""Checks of rounds, for what would be the same in each or is not there later, and of the model measured before them."""

from collections.abc import Iterator

from zephyr.recipe.conflicts import Conflict
from zephyr.recipe.evaluate_section import HarnessTask, PerplexityTask, PreferenceTask
from zephyr.recipe.model_section import POLICY, STAGE_REFERENCE, NewModel
from zephyr.recipe.stage_sections import RecipeFields, RoundsSection


def round_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """All settings that rounds conflict with, and that the measured base model does."""
    yield from _base_model(recipe)
    rounds, feedback, align = recipe.rounds, recipe.feedback, recipe.align
    if rounds is None:
        return
    for key, section in (("feedback", feedback), ("align", align)):
        if section is None:
            yield Conflict("rounds", f"repeat feedback and align, and there is no {key} stage", f"add {key}", (key,))
    if feedback is not None and feedback.recorded:
        yield Conflict("rounds", "recorded ratings are of no round", "give prompts, a judge", ("feedback.recorded",))
    elif feedback is not None and STAGE_REFERENCE + POLICY not in feedback.candidates.models:
        what = f"does not have {STAGE_REFERENCE}{POLICY}, so every round would learn from the same models' answers"
        yield Conflict("feedback.candidates.models", what, f"add {STAGE_REFERENCE}{POLICY}", ("rounds",))
    for key in ("start", "reference"):
        named = getattr(align, key, None)
        if named is not None:
            yield Conflict(f"align.{key}", f"differs from round to round, got {named}", "leave it out", ("rounds",))
    if align is not None and align.data.sources:
        yield Conflict("align.data.sources", "would be the same in every round", "leave it out", ("rounds",))
    if align is not None and rounds.reference == "first" and not align.objective.needs_reference:
        what = f"objective {align.objective.name} has no reference"
        yield Conflict("rounds.reference", what, "leave it out", ("align.objective",))
    if recipe.deliver is not None and recipe.deliver.push_to_hub is not None:
        what = "every round would be published in place of the one before"
        yield Conflict("deliver.push_to_hub", what, "push the run when it is done: zephyr push", ("rounds",))
    yield from _evaluated(recipe, rounds)


def _evaluated(recipe: RecipeFields, rounds: RoundsSection) -> Iterator[Conflict]:
    tasks = recipe.evaluate.tasks if recipe.evaluate is not None else []
    for number, task in enumerate(tasks):
        if isinstance(task, PerplexityTask) and not task.sources:
            key, what = f"evaluate.tasks.{number}.sources", "is empty, and later rounds have no sft stage"
            yield Conflict(key, what, "name sources, or leave the task out", ("rounds",))
    known = [f"{task.name}/accuracy" if isinstance(task, PreferenceTask) else task.name for task in tasks]
    known = [name for name in known if name in ("world", "preference/accuracy")]
    known += [name for task in tasks if isinstance(task, HarnessTask) for name in task.tasks]
    if rounds.watch is not None and rounds.watch not in known:
        said = f"known are {', '.join(known)}" if known else "evaluate has none that can be watched"
        yield Conflict("rounds.watch", f"no task of evaluate gives '{rounds.watch}'", said, ("evaluate.tasks",))


def _base_model(recipe: RecipeFields) -> Iterator[Conflict]:
    evaluate, model = recipe.evaluate, recipe.model
    if evaluate is None or not evaluate.base_model:
        return
    key = "evaluate.base_model"
    if isinstance(model, NewModel):
        yield Conflict(key, "a new model is not measured before it is trained", "leave it out", ("model",))
    elif recipe.pretrain is not None:
        yield Conflict(key, "in tables the model of pretrain is the base", "leave it out", ("pretrain",))
    elif model.trusted_code is not None:
        yield Conflict(key, "a model with code of its own is measured after training alone", "leave it out", ("model",))
