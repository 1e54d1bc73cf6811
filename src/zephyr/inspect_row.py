"""`zephyr inspect`: one row of a training stage as the model gets it, truncated to max_length."""

from itertools import islice
from pathlib import Path

from rich.console import Console

from zephyr.data.read.refused_rows import REMEDY
from zephyr.data.read.stage_rows import stage_rows
from zephyr.data.tokenize.examples import ROW_KINDS, example_name, fitted_rows
from zephyr.data.tokenize.inspection import show_dialogue, show_preference
from zephyr.data.tokenize.truncation import FittedPreference
from zephyr.errors import DataError, RecipeError, did_you_mean
from zephyr.models.tokenizers import Tokenizer
from zephyr.pipeline import stage_keys
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.rounds import first_round
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import ALIGN, FEEDBACK, PRETRAIN, REWARD, SFT, SYNTH
from zephyr.records.fields import UnusableError
from zephyr.records.rows import Preference, Record
from zephyr.runs.stage_folder import finished
from zephyr.stages.feedback_rows import PAIRS
from zephyr.stages.pretrain import byte_tokenizer
from zephyr.stages.stage import Work
from zephyr.stages.start import encoder_for, section_of, source_at_hand
from zephyr.stages.synth import DIALOGUES, TEXTS

# In the order in which they are looked for, where no stage is named: the stage and file of rows made in the run.
_MADE_ROWS = {SFT: (SYNTH, DIALOGUES), ALIGN: (FEEDBACK, PAIRS), PRETRAIN: (SYNTH, TEXTS), REWARD: (FEEDBACK, PAIRS)}


def inspect_row(recipe: Recipe, *, row: int, stage: str | None, console: Console) -> None:
    """Print row `row`, counted from 1, of a training stage; of the first the recipe has where none is named.

    Raises RecipeError for a stage that is not there or whose rows are not made yet, and DataError for too large a row.
    """
    recipe = first_round(recipe)
    trained = [name for name in _MADE_ROWS if name in recipe.stages]
    if stage is not None and stage not in trained:
        what = f"the recipe trains in no stage '{stage}'{did_you_mean(stage, trained)}"
        raise RecipeError("--stage", what, "name a stage that trains")
    if not trained:
        raise RecipeError(
            "inspect", "the recipe trains in no stage", "name a recipe with pretrain, sft, reward or align"
        )
    work = _finished_work(recipe, stage or trained[0])
    section, tokenizer = section_of(recipe, work.stage), _tokenizer(work)
    found = _row(work, row)
    encoder = encoder_for(tokenizer, recipe, work.stage)
    try:
        pieces = list(fitted_rows(found, section, encoder))
    except UnusableError as error:
        reasons = "; ".join(fault.what for fault in error.faults)
        raise DataError(found.name, f"is left out, or stops the run, as bad_rows says: {reasons}", REMEDY) from error
    for fitted in pieces:
        if isinstance(fitted, FittedPreference):
            assert isinstance(found, Preference)
            show_preference(console, tokenizer, found.name, fitted, ratings=found.ratings)
        else:
            show_dialogue(console, tokenizer, example_name(found, fitted), fitted)
        if fitted.loss.outcome != "whole":
            rule = section.data.truncation.rule
            console.print(f"max_length {section.data.max_length:,}, rule {rule}", style="bold red", highlight=False)


def _finished_work(recipe: Recipe, stage: str) -> Work:
    """The stage with the folders of the stages that an earlier run of this recipe has finished."""
    folder = recipe.output_dir / recipe.name
    keys = stage_keys(recipe)
    made = {name: folder / key.folder_name for name, key in keys.items() if finished(folder, key) is not None}
    return Work(recipe, stage, folder / keys[stage].work_name, made, folder)


def _tokenizer(work: Work) -> Tokenizer:
    """The stage's tokenizer; for a new model that is not made yet one of single bytes."""
    from zephyr.models.tokenizers import load_tokenizer

    source = source_at_hand(work)
    if source is not None:
        return load_tokenizer(source)
    assert isinstance(work.recipe.model, NewModel)
    return byte_tokenizer(work.recipe.model)


def _row(work: Work, number: int) -> Record:
    recipe, section = work.recipe, section_of(work.recipe, work.stage)
    file: Path | None = None
    if section.data.reads_made:
        maker, name = _MADE_ROWS[work.stage]
        if maker not in work.inputs:
            what = f"the rows of {work.stage} are made in the run"
            raise RecipeError("inspect", what, f"run this recipe by `zephyr run` first, as far as --until {maker}")
        file = work.inputs[maker] / name
    rows = stage_rows(recipe, section.data, ROW_KINDS[type(section)], file).train
    found = list(islice(rows, number - 1, number))
    if not found:
        raise DataError("--row", f"there are fewer than {number:,} rows in {work.stage}", "name a smaller number")
    return found[0]
