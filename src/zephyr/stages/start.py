"""What a stage starts from: a model, its tokenizer, and the encoder of dialogues."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import ModelError, RecipeError
from zephyr.estimate.model_shape import KNOWN_SHAPES, ModelShape, shape_of, shape_of_new
from zephyr.models.source import Source, load_config, model_folder, unreadable
from zephyr.models.tokenizers import Tokenizer, load_tokenizer
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.recipe.model_section import POLICY, STAGE_REFERENCE, FileTemplateSection, NewModel, TemplateText
from zephyr.recipe.objective_section import CustomObjective
from zephyr.recipe.schema import Recipe
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import (
    ALIGN,
    EVALUATE,
    FEEDBACK,
    POLICY_STAGES,
    PreferenceSection,
    TrainingSection,
)
from zephyr.recipe.teacher_section import LocalSection
from zephyr.records.fields import Json
from zephyr.runs.layout import MODEL
from zephyr.stages.stage import Work
from zephyr.teachers.opening import TeacherContext, open_teacher, stage_context
from zephyr.teachers.protocol import Teacher

# A new model before it is trained, in the folder of the stage that trains it first.
START = "start"
# The recipe's model from outside, where a stage measures it beside those of stages.
BASE = "base"


def section_of(recipe: Recipe, stage: str) -> TrainingSection:
    """The section of a training stage that the recipe has."""
    section: TrainingSection = getattr(recipe, stage)
    return section


def base_source(recipe: Recipe) -> Source:
    """Where the base model of a recipe comes from. Not for a new model, which a stage makes."""
    model = recipe.model
    assert not isinstance(model, NewModel)
    return Source(model.name_or_path, model.revision, recipe.offline, model.trusted_code)


def model_shape(recipe: Recipe) -> ModelShape:
    """The shape of the recipe's model: of a new one as it says, else from what is known or its configuration.

    Raises ModelError where the configuration cannot be read.
    """
    model = recipe.model
    if isinstance(model, NewModel):
        return shape_of_new(model)
    known = KNOWN_SHAPES.get(model.name_or_path)
    if known is not None:
        return known
    source = base_source(recipe)
    try:
        return shape_of(cast("dict[str, Json]", load_config(source).to_dict()))
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(source, "configuration", error) from error


def check_window(recipe: Recipe, stage: str) -> None:
    """Check that the rows of a training stage fit the positions of a model from outside that it starts from.

    A configuration that cannot be read says nothing here. Raises RecipeError.
    """
    named = named_start(recipe, stage)
    if named is None and isinstance(recipe.model, NewModel):
        return  # checked with the recipe
    if named is not None and named.startswith(STAGE_REFERENCE):
        return  # checked with the stage that makes it
    source = base_source(recipe) if named is None else Source(named, offline=recipe.offline)
    try:
        config = load_config(source)
    except ModelError:
        return
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    max_length = section_of(recipe, stage).data.max_length
    if longest is not None and max_length > longest:
        what = f"must be at most the {longest:,} positions of {source.name}, got {max_length:,}"
        raise RecipeError(f"{stage}.data.max_length", what, "shorten it, or choose a model with more positions")


def named_start(recipe: Recipe, stage: str) -> str | None:
    """The model from outside that a stage is told to start from, if it is told so."""
    section = getattr(recipe, stage)
    return section.start if isinstance(section, PreferenceSection) else None


def starting_stage(recipe: Recipe, stage: str) -> str | None:
    """The stage whose model this training stage starts from; None for a model from outside."""
    if named_start(recipe, stage) is not None:
        return None
    earlier = recipe.stages[: recipe.stages.index(stage)]
    before = [name for name in POLICY_STAGES if name in earlier and name != stage]
    return before[-1] if before else None


def earlier_training(recipe: Recipe, stage: str) -> list[TrainingSection]:
    """The sections of the stages that train, before this one, the model it starts from; the last one first."""
    found = []
    before = starting_stage(recipe, stage)
    while before is not None:
        found.append(section_of(recipe, before))
        before = starting_stage(recipe, before)
    return found


def template_and_model(recipe: Recipe, stage: str) -> dict[str, Plain]:
    """The settings that a stage with models depends on: the chat template, and the model where no stage trained one."""
    settings: dict[str, Plain] = {"chat_template": recipe.template_of(stage).result_settings()}
    text = text_of_template(recipe, stage)
    if text is not None:
        settings["chat_template.sha256"] = hashlib.sha256(text.text.encode()).hexdigest()
    objective = getattr(getattr(recipe, stage), "objective", None)
    if isinstance(objective, CustomObjective):
        settings["objective.sha256"] = hashlib.sha256(objective.file(recipe.data_dir).read_bytes()).hexdigest()
    if stage == EVALUATE:
        settings |= _own_tasks(recipe)
    judging = None if recipe.feedback is None else recipe.feedback.judging.below(recipe.data_dir)
    if stage == FEEDBACK and judging is not None and judging.rubric is not None:
        from zephyr.judging.rubric import read_rubric  # most recipes have none

        settings["judging.rubric.sha256"] = read_rubric(judging.rubric).sha256
    if starting_stage(recipe, stage) is None:
        settings["model"] = recipe.model.result_settings()
    return settings


def _own_tasks(recipe: Recipe) -> dict[str, Plain]:
    """The hashes of the definitions of tasks of a user's own, by the key that names their folder."""
    found: dict[str, Plain] = {}
    for number, task in enumerate(recipe.evaluate.tasks if recipe.evaluate is not None else []):
        if isinstance(task, HarnessTask) and task.include_path is not None:
            digest = hashlib.sha256()
            for path in sorted((recipe.data_dir / task.include_path).rglob("*")):
                if path.suffix in (".yaml", ".py"):
                    digest.update(path.name.encode() + b"\0" + path.read_bytes())
            found[f"tasks.{number}.include_path.sha256"] = digest.hexdigest()
    return found


def named_source(work: Work, name: str) -> Source:
    """The model of a name: `stage:NAME` is that of an earlier stage, anything else a folder or a hub id."""
    if not name.startswith(STAGE_REFERENCE):
        return Source(name, offline=work.recipe.offline)
    return Source(str(work.inputs[name.removeprefix(STAGE_REFERENCE)] / MODEL), offline=True)


def model_made(work: Work, stage: str) -> Path:
    """The folder of the model of a finished stage, or of the recipe's base model. Raises ModelError."""
    return model_folder(base_source(work.recipe)) if stage == BASE else work.inputs[stage] / MODEL


def starting_source(work: Work, stage: str | None = None) -> Source:
    """The model that a training stage starts from; this one, if none is named."""
    recipe, stage = work.recipe, stage or work.stage
    named = named_start(recipe, stage)
    if named is not None:
        return named_source(work, named)
    before = starting_stage(recipe, stage)
    if before is not None:
        return Source(str(work.inputs[before] / MODEL), offline=True)
    return Source(str(work.folder / START), offline=True) if isinstance(recipe.model, NewModel) else base_source(recipe)


def reference_source(work: Work) -> Source:
    """The model that align's objective compares with."""
    align = work.recipe.align
    assert align is not None
    return starting_source(work, ALIGN) if align.reference is None else named_source(work, align.reference)


def source_at_hand(work: Work) -> Source | None:
    """A source of the tokenizer that a training stage will use, before the run; None if that is still to be made.

    Training changes no tokenizer, so an earlier model of the same run serves as well.
    """
    recipe, stage = work.recipe, work.stage
    named = named_start(recipe, stage)
    if named is not None:
        is_made = not named.startswith(STAGE_REFERENCE) or named.removeprefix(STAGE_REFERENCE) in work.inputs
        return named_source(work, named) if is_made else None
    before = starting_stage(recipe, stage)
    while before is not None:
        for made in (MODEL, START):
            if before in work.inputs and (work.inputs[before] / made).exists():
                return Source(str(work.inputs[before] / made), offline=True)
        before = starting_stage(recipe, before)
    if not isinstance(recipe.model, NewModel):
        return base_source(recipe)
    return Source(str(work.folder / START), offline=True) if (work.folder / START).exists() else None


def encoder_for(tokenizer: Tokenizer, recipe: Recipe, stage: str) -> DialogueEncoder:
    """The stage's encoder of dialogues. Raises ModelError or RecipeError if tokenizer and template do not fit."""
    return DialogueEncoder(tokenizer, recipe.template_of(stage), text_of_template(recipe, stage))


def text_of_template(recipe: Recipe, stage: str) -> TemplateText | None:
    """The chat template that the stage takes from a file; None for one that it does not. Raises RecipeError."""
    section = recipe.template_of(stage)
    if not isinstance(section, FileTemplateSection):
        return None
    from zephyr.models.chat_templates import read_chat_template

    return read_chat_template(section, data_dir=recipe.data_dir, offline=recipe.offline)


def starting_tokenizer(source: Source, recipe: Recipe, stage: str) -> tuple[Tokenizer, DialogueEncoder]:
    """The tokenizer of a model with the stage's chat template in it, and the stage's encoder."""
    tokenizer = load_tokenizer(source)
    encoder = encoder_for(tokenizer, recipe, stage)
    tokenizer.chat_template = encoder.chat_template
    return tokenizer, encoder


def referenced_stages(recipe: Recipe, stage: str, names: Iterable[str]) -> Iterator[str]:
    """The earlier stages that names of models stand for: `stage:NAME`, and `stage:policy`."""
    policy = starting_stage(recipe, stage)
    for name in names:
        named = name.removeprefix(STAGE_REFERENCE) if name.startswith(STAGE_REFERENCE) else None
        found = policy if named == POLICY else named
        if found is not None:
            yield found


def answering_context(work: Work) -> TeacherContext:
    """What the teachers of feedback have in common, the policy among the models if it answers."""
    context, feedback = stage_context(work.recipe, work.stage, work.inputs), work.recipe.feedback
    if feedback is None or STAGE_REFERENCE + POLICY not in feedback.candidates.models:
        return context
    policy = model_folder(starting_source(work)).resolve()
    return replace(context, models={**context.models, POLICY: policy})


def stage_teacher(work: Work, stage: str, *, cache_tokens: int | None = None) -> Teacher:
    """The model of a finished stage as a teacher, with the chat template of the current stage.

    ``cache_tokens``: of key-value cache while it answers, None: by the device.
    """
    context = replace(stage_context(work.recipe, work.stage, work.inputs), cache_tokens=cache_tokens)
    return open_teacher(LocalSection(model=str(model_made(work, stage))), "writes", context).teacher
