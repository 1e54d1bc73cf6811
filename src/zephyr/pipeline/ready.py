"""What a stage starts from: a model, its tokenizer, and the recipe's way from dialogues to tokens."""

from typing import NamedTuple

from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.models.loading import Source, Tokenizer, TrustedCode, load_tokenizer
from zephyr.models.new_model import MIN_VOCABULARY, learn_tokenizer
from zephyr.pipeline.stages import starting_model
from zephyr.recipe.conflicts import STAGE_REFERENCE
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.runs.layout import MODEL
from zephyr.stages.stage import Work

START = "start"
STAGE_MODEL = STAGE_REFERENCE


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


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The base model's tokenizer; for a model that is to be made one that was learnt from nothing stands in."""
    shape = recipe.model
    if isinstance(shape, NewModel):
        return learn_tokenizer([], vocab_size=MIN_VOCABULARY, max_length=shape.max_position_embeddings, bos=False)
    return load_tokenizer(base_source(recipe))
