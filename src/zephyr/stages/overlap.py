"""Held-out rows against the rows that a run trains on: what a check says of them, and what a run refuses.

A training stage compares its own sources as it reads them (`zephyr.data.read.overlap`). Here are the comparisons that
a check makes before, and those between stages: the prompts of feedback, and the sources of evaluation tasks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from zephyr.data.filters.parts import prompt_key
from zephyr.data.read.overlap import PromptOverlap, overlap_error, refuse_shared_files
from zephyr.data.read.source_files import name_of
from zephyr.data.read.stage_rows import Accounts, stage_rows
from zephyr.recipe.data_section import DataSection, DataSource, Filter
from zephyr.recipe.evaluate_section import EvaluationTask, PerplexityTask, PreferenceTask
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import ALIGN, SFT
from zephyr.records.rows import Prompt, Record
from zephyr.runs.layout import PROMPT_KEYS, TOKENS


class TrainedPrompts(NamedTuple):
    """The keys of the prompts that a stage trains on; not exact where filters or `eval_share` may still drop some."""

    keys: frozenset[int]
    is_exact: bool


def eval_lines(recipe: Recipe, data: DataSection, rows: Iterable[Record], held: Iterable[Record]) -> Iterator[str]:
    """A line on held-out prompts in the sources. Raises DataError for more than allowed, if no filter can drop them."""
    if not data.allow_overlap:
        refuse_shared_files(data.sources, data.eval_sources, recipe.data_dir)
    overlap = PromptOverlap(held, data.eval_sources, data.allow_overlap)
    for row in rows:
        overlap.add(row)
    if not data.filters:
        overlap.check()
    yield from _allowed_line(len(overlap.shared), data.allow_overlap, " before the filters" if data.filters else "")


def _allowed_line(num_shared: int, allowed: int, before: str) -> Iterator[str]:
    if num_shared:
        yield f"{num_shared:,} held-out prompts are also trained on{before}, allowed are {allowed:,}"


def trained_prompts(
    recipe: Recipe, stage: str, data: DataSection, rows: Iterable[Record], accounts: Accounts | None
) -> dict[str, TrainedPrompts]:
    """The prompts of a stage by its name, if an evaluation task asks for them; of all rows the accounts know them."""
    tasks = recipe.evaluate.tasks if recipe.evaluate is not None else []
    if not any(_has_rows(task) and trained_by(task) == stage for task in tasks):
        return {}
    if accounts is not None:
        return {stage: TrainedPrompts(frozenset(accounts.overlap.trained), is_exact=True)}
    is_exact = not data.filters and not data.eval_share
    return {stage: TrainedPrompts(frozenset(map(prompt_key, rows)), is_exact)}


def feedback_data(
    recipe: Recipe, sources: Sequence[DataSource], filters: Sequence[Filter] = (), *, with_made: bool = False
) -> DataSection:
    """Prompts or ratings of feedback as data, which may not hold what the stages that learn from them hold out."""
    learners = [one.data for one in (recipe.reward, recipe.align) if one is not None and one.data.reads_made]
    return DataSection(
        sources=list(sources),
        with_made_rows=with_made,
        eval_sources=[source for data in learners for source in data.eval_sources],
        allow_overlap=max((data.allow_overlap for data in learners), default=0),
        filters=list(filters),
        shuffle=False,
    )


def refuse_held_out(recipe: Recipe, recorded: Sequence[DataSource]) -> None:
    """Check that recorded ratings rate no prompt that a stage holds out that learns from them. Raises DataError."""
    data = feedback_data(recipe, recorded)
    if data.eval_sources:
        for _ in stage_rows(recipe, data, Prompt, None).train:
            pass


def task_lines(task: EvaluationTask, trained: Mapping[str, TrainedPrompts], rows: Iterable[Record]) -> Iterator[str]:
    """A line on prompts of a task's own sources that are trained on. Raises DataError for more than it allows."""
    if not _has_rows(task) or trained_by(task) not in trained:
        return
    found = trained[trained_by(task)]
    num_shared = _shared(task, found.keys, rows, refuses=found.is_exact)
    yield from _allowed_line(num_shared, task.allow_overlap, "" if found.is_exact else " before filters and eval_share")


def refuse_trained(task: EvaluationTask, inputs: Mapping[str, Path], rows: Iterable[Record]) -> None:
    """Check that a task measures no rows that the model was trained on, as far as its stage has read its own.

    Raises DataError for more prompts than the task allows.
    """
    if _has_rows(task) and trained_by(task) in inputs:
        file = inputs[trained_by(task)] / TOKENS / PROMPT_KEYS
        if file.exists():
            _shared(task, frozenset(np.load(file).tolist()), rows, refuses=True)


def _has_rows(task: EvaluationTask) -> TypeGuard[PreferenceTask | PerplexityTask]:
    """Whether the task names sources of its own."""
    return isinstance(task, PreferenceTask | PerplexityTask) and bool(task.sources)


def trained_by(task: PreferenceTask | PerplexityTask) -> str:
    """The training stage that learns from rows of the kind that a task measures."""
    return ALIGN if isinstance(task, PreferenceTask) else SFT


def _shared(
    task: PreferenceTask | PerplexityTask, trained: frozenset[int], rows: Iterable[Record], *, refuses: bool
) -> int:
    """The number of the rows' prompts that are trained on; DataError for more than allowed, if it `refuses`."""
    keys = {prompt_key(row) for row in rows}
    shared = keys & trained
    if refuses and len(shared) > task.allow_overlap:
        where = ", ".join(name_of(source) for source in task.sources)
        raise overlap_error(where, len(shared), len(keys), task.allow_overlap, f"by {trained_by(task)}")
    return len(shared)
