"""What a stage starts from: a model, its tokenizer, and the recipe's way from dialogues to tokens."""

from typing import NamedTuple

from zephyr.data.encoding import DialogueEncoder
from zephyr.data.templates import TemplateSettings
from zephyr.errors import RecipeError
from zephyr.models.fresh import MIN_VOCABULARY, learn_tokenizer
from zephyr.models.loading import Source, Tokenizer, TrustedCode, load_model, load_tokenizer
from zephyr.pipeline.endpoints import endpoint_teacher
from zephyr.pipeline.stage_folder import MODEL
from zephyr.pipeline.stages import Work, starting_model
from zephyr.recipe.feedback_section import EndpointTeacher as EndpointSection
from zephyr.recipe.feedback_section import LocalTeacher as LocalSection
from zephyr.recipe.feedback_section import ScriptedTeacher as ScriptedSection
from zephyr.recipe.feedback_section import Teacher as TeacherSection
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.teachers.local import LocalTeacher
from zephyr.teachers.protocol import Teacher
from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher

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
    return DialogueEncoder(tokenizer, TemplateSettings(**recipe.template_of(stage).model_dump()))


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


def writer(section: TeacherSection, work: Work) -> Teacher:
    """The teacher that writes answers."""
    if isinstance(section, ScriptedSection):
        return ScriptedTeacher(section.fault_rate, seed=work.recipe.seed)
    return _teacher(section, work)


def rater(section: TeacherSection, work: Work) -> Teacher:
    """The teacher that rates them."""
    return ScriptedJudge(seed=work.recipe.seed) if isinstance(section, ScriptedSection) else _teacher(section, work)


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The base model's tokenizer; for a model that is to be made one that was learnt from nothing stands in."""
    shape = recipe.model
    if isinstance(shape, NewModel):
        return learn_tokenizer([], vocab_size=MIN_VOCABULARY, max_length=shape.max_position_embeddings, bos=False)
    return load_tokenizer(base_source(recipe))


def answering(name: str, work: Work, *, max_cache_tokens: int = 65_536) -> Teacher:
    """A model that answers: `stage:sft` is that of a stage, anything else a folder or a hub id."""
    source = Source(name, offline=work.recipe.offline)
    if name.startswith(STAGE_MODEL):
        stage = name.removeprefix(STAGE_MODEL)
        if stage not in work.inputs:
            raise RecipeError(work.stage, f"'{name}' is not made before it", "name a stage that is, or a folder")
        source = Source(str(work.inputs[stage] / MODEL), offline=True)
    encoder = encoder_for(load_tokenizer(source), work.recipe, work.stage)
    return LocalTeacher(load_model(source, dtype="float32"), encoder, name=name, max_cache_tokens=max_cache_tokens)


def _teacher(section: TeacherSection, work: Work) -> Teacher:
    if isinstance(section, LocalSection):
        return answering(section.model, work)
    assert isinstance(section, EndpointSection)
    where = f"{work.stage}.{'judge' if work.stage == 'feedback' else 'teacher'}"
    return endpoint_teacher(section, where=where, offline=work.recipe.offline)
