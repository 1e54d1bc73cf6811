"""What the stages read from outside, and as which kind of row."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from zephyr.recipe.data_section import DataSection, DataSource
from zephyr.recipe.evaluate_section import PerplexityTask, PreferenceTask
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, PretrainSection, SftSection
from zephyr.records.rows import Chat, Preference, Record, Text

Trains: TypeAlias = PretrainSection | SftSection | AlignSection


class Inputs(NamedTuple):
    """Rows that a stage reads beside those it trains on."""

    data: DataSection
    kind: type[Record]


def training_section(recipe: Recipe, stage: str) -> Trains | None:
    """The section of a stage that trains; None if this one does not."""
    section = getattr(recipe, stage)
    return section if isinstance(section, PretrainSection | SftSection | AlignSection) else None


def row_kind(section: Trains) -> type[Record]:
    """What a row of the stage is."""
    if isinstance(section, PretrainSection):
        return Text
    return Chat if isinstance(section, SftSection) else Preference


def other_inputs(recipe: Recipe, stage: str) -> Iterator[Inputs]:
    """The rows from outside of a stage that does not train, as far as there are any."""
    if stage == "evaluate" and recipe.evaluate is not None:
        for task in recipe.evaluate.tasks:
            if isinstance(task, PreferenceTask | PerplexityTask) and task.sources:
                yield _inputs(task.sources, Preference if isinstance(task, PreferenceTask) else Chat)


def _inputs(sources: list[DataSource], kind: type[Record]) -> Inputs:
    return Inputs(DataSection(sources=sources, shuffle=False), kind)
