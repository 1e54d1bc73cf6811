"""What a stage starts from: a model, its tokenizer, and the recipe's way from dialogues to tokens."""

from dataclasses import replace
from typing import NamedTuple

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.errors import RecipeError
from zephyr.models.loading import Source, Tokenizer, TrustedCode, load_model, load_tokenizer
from zephyr.models.new_model import MIN_VOCABULARY, learn_tokenizer
from zephyr.pipeline.endpoints import endpoint_teacher
from zephyr.pipeline.stages import starting_model
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, ScriptedSection, TeacherSection, VllmSection
from zephyr.runs.layout import MODEL
from zephyr.stages.stage import Work
from zephyr.teachers.local import LocalTeacher
from zephyr.teachers.protocol import Teacher
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher
from zephyr.teachers.vllm_engine import EngineSettings, is_installed, not_installed, open_vllm

START = "start"
STAGE_MODEL = "stage:"


class Ready(NamedTuple):
    """What a training stage starts from."""

    start: Source
    tokenizer: Tokenizer
    encoder: DialogueEncoder


def base_source(recipe: Recipe) -> Source:
    """Where the base model of a recipe comes from. Not for a new model, which a stage makes."""
    model = recipe.model
    assert not isinstance(model, NewModel)
    code = model.trusted_code
    trusted = None if code is None else TrustedCode(code.repository, code.revision)
    return Source(model.name_or_path, model.revision, recipe.offline, trusted)


def encoder_for(tokenizer: Tokenizer, recipe: Recipe, stage: str) -> DialogueEncoder:
    """The recipe's way from dialogues to tokens in a stage."""
    return DialogueEncoder(tokenizer, recipe.template_of(stage))


def starting_source(work: Work, stage: str | None = None) -> Source:
    """The model that a training stage starts from; this one, if none is named."""
    recipe, stage = work.recipe, stage or work.stage
    if stage == "align" and recipe.align is not None and recipe.align.start is not None:
        return Source(recipe.align.start, offline=recipe.offline)
    before = starting_model(recipe, stage)
    if before is not None:
        return Source(str(work.inputs[before] / MODEL), offline=True)
    if isinstance(recipe.model, NewModel):
        return Source(str(work.folder / START), offline=True)
    return base_source(recipe)


def ready_for(work: Work) -> Ready:
    """The model a stage starts from, and its tokenizer with the recipe's template in it."""
    start = starting_source(work)
    tokenizer = load_tokenizer(start)
    encoder = encoder_for(tokenizer, work.recipe, work.stage)
    tokenizer.chat_template = encoder.chat_template
    return Ready(start, tokenizer, encoder)


def writer(section: TeacherSection, work: Work, *, where: str = "teacher") -> Teacher:
    """The teacher that writes answers; `where` is its key in the section of the stage."""
    if isinstance(section, ScriptedSection):
        return ScriptedTeacher(section.fault_rate, seed=work.recipe.seed)
    return _teacher(section, work, where)


def rater(section: TeacherSection, work: Work) -> Teacher:
    """The teacher that rates them."""
    if isinstance(section, ScriptedSection):
        return ScriptedJudge(seed=work.recipe.seed)
    return _teacher(section, work, "judge")


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The base model's tokenizer; for a model that is to be made one that was learnt from nothing stands in."""
    shape = recipe.model
    if isinstance(shape, NewModel):
        return learn_tokenizer([], vocab_size=MIN_VOCABULARY, max_length=shape.max_position_embeddings, bos=False)
    return load_tokenizer(base_source(recipe))


def answering(name: str, work: Work, *, max_cache_tokens: int = 65_536) -> Teacher:
    """A model that answers: `stage:sft` is that of a stage, anything else a folder or a hub id."""
    source = answering_source(name, work)
    encoder = encoder_for(load_tokenizer(source), work.recipe, work.stage)
    return LocalTeacher(load_model(source, dtype="float32"), encoder, name=name, max_cache_tokens=max_cache_tokens)


def answering_source(name: str, work: Work) -> Source:
    """Where a model that answers lies. Raises RecipeError for a stage that does not come before this one."""
    if not name.startswith(STAGE_MODEL):
        return Source(name, offline=work.recipe.offline)
    stage = name.removeprefix(STAGE_MODEL)
    if stage not in work.inputs:
        raise RecipeError(work.stage, f"'{name}' is not made before it", "name a stage that is, or a folder")
    return Source(str(work.inputs[stage] / MODEL), offline=True)


def _teacher(section: TeacherSection, work: Work, where: str) -> Teacher:
    if isinstance(section, LocalSection):
        return answering(section.model, work)
    if isinstance(section, VllmSection):
        return _engine(section, work)
    assert isinstance(section, EndpointSection)
    return endpoint_teacher(section, where=f"{work.stage}.{where}", offline=work.recipe.offline)


def _engine(section: VllmSection, work: Work) -> Teacher:
    if not is_installed():
        raise not_installed()
    source = answering_source(section.model, work)
    if section.revision is not None:
        source = replace(source, revision=section.revision)
    encoder = encoder_for(load_tokenizer(source), work.recipe, work.stage)
    settings = EngineSettings(
        section.revision, section.num_gpus, section.memory_share, section.max_length, seed=work.recipe.seed
    )
    return open_vllm(source.name, encoder, settings, name=section.model)
