"""`zephyr inspect`: one row of a training stage as the model gets it."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from zephyr.data.read.stage_rows import hash_of_source, stage_rows
from zephyr.data.tokenize.inspection import show_dialogue, show_preference
from zephyr.data.tokenize.token_store import Comparison
from zephyr.errors import DataError, RecipeError, did_you_mean
from zephyr.models.loading import Source, Tokenizer, load_tokenizer
from zephyr.pipeline.ready import encoder_for, tokenizer_of
from zephyr.pipeline.stages import plan_stages, starting_model, taken_stages
from zephyr.recipe.data_section import DataSection
from zephyr.recipe.schema import Recipe
from zephyr.records.rows import Chat, Preference, Record, Text
from zephyr.runs.layout import MODEL
from zephyr.runs.stage_folder import finished
from zephyr.stages.feedback import PAIRS
from zephyr.stages.synth import DIALOGUES, TEXTS

SHOWN = ("sft", "align", "pretrain")
R = TypeVar("R", bound=Record)


def inspect_row(recipe: Recipe, *, row: int, stage: str | None, console: Console) -> None:
    """Print row `row`, counted from 1, of a training stage; of the first the recipe has where none is named."""
    trained = [name for name in SHOWN if getattr(recipe, name) is not None]
    if stage is not None and stage not in trained:
        what = f"the recipe trains in no stage '{stage}'{did_you_mean(stage, trained)}"
        raise RecipeError("--stage", what, "name a stage that trains")
    chosen = stage or trained[0]
    made = _finished_stages(recipe)
    tokenizer = _tokenizer(recipe, chosen, made)
    encoder = encoder_for(tokenizer, recipe, chosen)
    if chosen == "pretrain":
        text = _row(recipe, chosen, Text, row, made)
        show_dialogue(console, tokenizer, text.name, encoder.text(text.text))
    elif chosen == "sft":
        assert recipe.sft is not None
        chat = _row(recipe, chosen, Chat, row, made)
        encoded = encoder.dialogue(chat.messages, loss_on=recipe.sft.objective.loss_on)
        show_dialogue(console, tokenizer, chat.name, encoded)
    else:
        one = _row(recipe, chosen, Preference, row, made)
        completions = tuple(encoder.completion(text) for text in one.completions)
        stored = Comparison(one.name, encoder.prompt(one.prompt), completions, one.ratings)
        show_preference(console, tokenizer, stored)


def _finished_stages(recipe: Recipe) -> dict[str, Path]:
    """The folders of the stages that an earlier run of this recipe has finished."""
    folder = recipe.output_dir / recipe.name
    planned = plan_stages(recipe, lambda source: hash_of_source(recipe, source))
    return {one.stage: folder / one.key.folder_name for one in planned if finished(folder, one.key) is not None}


def _tokenizer(recipe: Recipe, stage: str, made: dict[str, Path]) -> Tokenizer:
    before = starting_model(recipe, stage)
    if before in made:
        return load_tokenizer(Source(str(made[before] / MODEL), offline=True))
    return tokenizer_of(recipe)


def _row(recipe: Recipe, stage: str, kind: type[R], number: int, made: dict[str, Path]) -> R:
    data: DataSection = getattr(recipe, stage).data
    makers = {"synth": TEXTS if stage == "pretrain" else DIALOGUES, "feedback": PAIRS}
    before = [name for name in taken_stages(recipe, stage) if name in makers]
    if not data.sources and not any(name in made for name in before):
        raise RecipeError("inspect", f"the rows of {stage} are made in the run", f"run it --until {before[0]} first")
    file = None if data.sources else made[before[0]] / makers[before[0]]
    rows: Iterable[R] = stage_rows(recipe, data, kind, file).train
    found = list(islice(rows, number - 1, number))
    if not found:
        raise DataError("--row", f"there are fewer than {number:,} rows in {stage}", "name a smaller number")
    return found[0]
