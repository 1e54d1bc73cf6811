"""What the stages read from outside, and as which kind of row."""

from typing import TypeAlias

from zephyr.models.adapters import refuse_4bit
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import AlignSection, PretrainSection, SftSection
from zephyr.records.rows import Chat, Preference, Record, Text

Trains: TypeAlias = PretrainSection | SftSection | AlignSection


def training_section(recipe: Recipe, stage: str) -> Trains | None:
    """The section of a stage that trains; None if this one does not."""
    section = getattr(recipe, stage)
    return section if isinstance(section, PretrainSection | SftSection | AlignSection) else None


def refuse_device(section: Trains) -> None:
    """Check that this machine can train so. Raises DeviceError."""
    if not isinstance(section, PretrainSection) and section.lora is not None and section.lora.load_in_4bit:
        refuse_4bit()


def row_kind(section: Trains) -> type[Record]:
    """What a row of the stage is."""
    if isinstance(section, PretrainSection):
        return Text
    return Chat if isinstance(section, SftSection) else Preference
