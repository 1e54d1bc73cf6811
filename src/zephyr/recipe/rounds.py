"""The recipe of each round of an on-policy run: a round is a run of its own, in a folder of the run's folder.

So a round is checked, resumed, skipped, evaluated and reported as every run is, and its lock file repeats it alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from zephyr.recipe.data_section import DataSource, PartFilter
from zephyr.recipe.evaluate_section import EvaluateSection
from zephyr.recipe.feedback_section import ChecksSection, FeedbackSection, JudgeSection
from zephyr.recipe.model_section import POLICY, STAGE_REFERENCE, NewModel, PretrainedModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Section
from zephyr.recipe.teacher_section import LocalSection, VllmSection

Asked = TypeVar("Asked", bound=Section)


class RoundInputs(NamedTuple):
    """What later rounds are made from, beside the recipe.

    ``policy``: the model that the round before has made; ``first``: the one that the first round began with;
    ``models``: those of the first round's stages, by name; ``prompts``: the file of prompts that its synth stage made.
    """

    policy: Path
    first: Path
    models: Mapping[str, Path]
    prompts: Path | None


def round_name(number: int) -> str:
    """The name of a round's folder, the first being 1."""
    return f"round-{number}"


def first_round(recipe: Recipe) -> Recipe:
    """The recipe of the first round, which makes all stages; one without rounds as it is."""
    if recipe.rounds is None:
        return recipe
    evaluate = recipe.evaluate
    begins_outside = recipe.pretrain is None and recipe.sft is None
    if evaluate is not None and begins_outside and not isinstance(recipe.model, NewModel):
        # The table of rounds begins with the model that the first one starts from.
        evaluate = evaluate.model_copy(update={"base_model": recipe.model.trusted_code is None})
    return _of_round(recipe, 1, evaluate, _feedback(recipe))


def later_round(recipe: Recipe, number: int, inputs: RoundInputs) -> Recipe:
    """The recipe of a round after the first: feedback and what follows, from the model of the round before."""
    assert recipe.rounds is not None
    assert recipe.align is not None
    feedback, evaluate = _feedback(recipe), recipe.evaluate
    candidates = feedback.candidates.model_copy(
        update={
            "models": [_located(name, inputs) for name in feedback.candidates.models],
            "teachers": [_with_model(one, inputs) for one in feedback.candidates.teachers],
        }
    )
    read = inputs.prompts if feedback.reads_made else None
    made = [] if read is None else [DataSource(path=str(read.resolve()))]
    feedback = feedback.model_copy(
        update={
            "candidates": candidates,
            "judge": _judge(feedback.judge, inputs),
            "prompts": [*feedback.prompts, *made],
            "with_made_prompts": False,
        }
    )
    reference = str(inputs.first) if recipe.rounds.reference == "first" else None
    if evaluate is not None:
        evaluate = evaluate.model_copy(update={"base_model": False})
    return _of_round(recipe, number, evaluate, feedback).model_copy(
        update={
            "model": PretrainedModel(name_or_path=str(inputs.policy)),
            "synth": None,
            "pretrain": None,
            "sft": None,
            "align": recipe.align.model_copy(update={"reference": reference}),
        }
    )


def _of_round(recipe: Recipe, number: int, evaluate: EvaluateSection | None, feedback: FeedbackSection) -> Recipe:
    assert recipe.rounds is not None
    part = PartFilter(name="part", number=number, of=recipe.rounds.count)
    return recipe.model_copy(
        update={
            "name": round_name(number),
            "output_dir": recipe.output_dir / recipe.name,
            "rounds": None,
            "evaluate": evaluate,
            # The last of the filters, so that near duplicates of a prompt are not in another round either.
            "feedback": feedback.model_copy(update={"filters": [*feedback.filters, part]}),
        }
    )


def _feedback(recipe: Recipe) -> FeedbackSection:
    assert recipe.feedback is not None
    return recipe.feedback


def _located(name: str, inputs: RoundInputs) -> str:
    """The name of a model; that of a stage of the first round is its folder, as later rounds have no such stage."""
    wanted = name.removeprefix(STAGE_REFERENCE)
    return str(inputs.models[wanted]) if name.startswith(STAGE_REFERENCE) and wanted != POLICY else name


def _judge(judge: JudgeSection, inputs: RoundInputs) -> JudgeSection:
    if not isinstance(judge, ChecksSection) or judge.beside is None:
        return _with_model(judge, inputs)
    beside = judge.beside.model_copy(update={"judge": _with_model(judge.beside.judge, inputs)})
    return judge.model_copy(update={"beside": beside})


def _with_model(asked: Asked, inputs: RoundInputs) -> Asked:
    """The section of a teacher or a judge; that of a model on this machine with the model's folder."""
    if not isinstance(asked, LocalSection | VllmSection):
        return asked
    return cast("Asked", asked.model_copy(update={"model": _located(asked.model, inputs)}))
