"""What a run reads from outside, looked at before its first stage: a broken row stops it at once, not after hours.

The rows of a training stage become tokens here already, if its tokenizer is there; the stage then finds them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from zephyr.data.read.stage_rows import stage_rows
from zephyr.errors import Problems
from zephyr.models.loading import Source, Tokenizer, load_tokenizer
from zephyr.pipeline.inputs import refuse_device, row_kind, training_section
from zephyr.pipeline.make_models import make_start
from zephyr.pipeline.prepare import prepare_rows
from zephyr.pipeline.ready import base_source, encoder_for
from zephyr.pipeline.stages import Planned
from zephyr.pipeline.telling import facts_in_words, left_out_lines
from zephyr.pipeline.tokens import none_left
from zephyr.recipe.data_section import DataSection
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.records.rows import Record
from zephyr.runs.layout import MODEL
from zephyr.runs.stage_folder import Facts, finished
from zephyr.stages import evaluate, feedback
from zephyr.stages.stage import Work

Say = Callable[[str], None]


def look_ahead(
    recipe: Recipe, planned: Sequence[Planned], *, run_folder: Path, stages: Sequence[str], say: Say
) -> None:
    """Nothing; afterwards all rows from outside have been read, and are tokens where that can be.

    Raises one error that says what is wrong with the inputs of all `stages` that are still to be made.
    """
    problems = Problems()
    due = {
        one.stage: Work(recipe, one.stage, run_folder / one.key.work_name, {}, run_folder)
        for one in planned
        if one.stage in stages and finished(run_folder, one.key) is None
    }
    width = max(len(stage) for stage in recipe.stages)
    start: Source | None = None
    with problems.noted():
        start = _start(recipe, planned, due.get("pretrain"), run_folder)
    for stage, work in due.items():
        facts: Facts = {}
        with problems.noted():
            facts = _looked_at(work, start)
        if facts:
            say(f"{stage:<{width}}  reads: {facts_in_words(facts)}")
        for line in left_out_lines(facts):
            say(f"{stage:<{width}}  {line}")
    problems.raise_any()


def _start(recipe: Recipe, planned: Sequence[Planned], pretrain: Work | None, run_folder: Path) -> Source | None:
    """Where the tokenizer of the run's model lies; None for one that is learnt from rows that are not there yet."""
    if not isinstance(recipe.model, NewModel):
        return base_source(recipe)
    if pretrain is None:
        made = [one.key for one in planned if one.stage == "pretrain" and finished(run_folder, one.key) is not None]
        return Source(str(run_folder / made[0].folder_name / MODEL), offline=True) if made else None
    section = pretrain.recipe.pretrain
    assert section is not None
    return Source(str(make_start(pretrain, recipe.model)), offline=True) if section.data.sources else None


def _looked_at(work: Work, start: Source | None) -> Facts:
    """What was found out about the stage's inputs from outside."""
    recipe, section = work.recipe, training_section(work.recipe, work.stage)
    if section is None:
        return _others(work)
    refuse_device(section)
    if not section.data.sources:
        return {}
    tokenizer = _tokenizer(work, start)
    if tokenizer is None:
        return _read(recipe, section.data, row_kind(section))
    return prepare_rows(work, encoder_for(tokenizer, recipe, work.stage))


def _others(work: Work) -> Facts:
    """What is read by a stage that does not train."""
    if work.stage == "feedback":
        return feedback.STAGE.preflight(work)
    if work.stage == evaluate.STAGE.name:
        return evaluate.STAGE.preflight(work)
    return {}


def _read(recipe: Recipe, data: DataSection, kind: type[Record]) -> Facts:
    """The number of rows that pass the filters, and what does not. Raises DataError if none does."""
    rows = stage_rows(recipe, data, kind, None)
    num_rows = sum(1 for _ in rows.train)
    if not num_rows:
        raise none_left(rows.accounts)
    return {"rows": num_rows, **rows.accounts.facts()}


def _tokenizer(work: Work, start: Source | None) -> Tokenizer | None:
    align = work.recipe.align
    if work.stage == "align" and align is not None and align.start is not None:
        start = Source(align.start, offline=work.recipe.offline)
    return None if start is None else load_tokenizer(start)
