"""Training stages to be estimated, with some of their settings changed."""

from dataclasses import replace

from zephyr.estimate.model_shape import KNOWN_SHAPES, ModelShape
from zephyr.estimate.row_lengths import RowLengths
from zephyr.estimate.workload import Workload
from zephyr.recipe.stage_sections import AlignSection
from zephyr.recipe.train_section import LoraSection

MISTRAL = KNOWN_SHAPES["mistralai/Mistral-7B-v0.1"]
PAIRS = RowLengths(61_135, 195, 275, 2)


def workload(shape: ModelShape, rows: RowLengths, objective: str = "orpo", **train: object) -> Workload:
    """An align stage with these hyper-parameters."""
    section = {"objective": {"name": objective}, "train": {"learning_rate": 1.0e-6} | train}
    return Workload("align", AlignSection.model_validate(section), shape, rows)


def with_train(work: Workload, **settings: object) -> Workload:
    """The stage with other hyper-parameters."""
    train = work.train.model_copy(update=settings)
    return replace(work, section=work.section.model_copy(update={"train": train}))


def with_lora(work: Workload, lora: LoraSection) -> Workload:
    """The stage with adapters."""
    return replace(work, section=work.section.model_copy(update={"lora": lora}))


def with_max_length(work: Workload, max_length: int) -> Workload:
    """The stage with another longest sequence."""
    data = work.section.data.model_copy(update={"max_length": max_length})
    return replace(work, section=work.section.model_copy(update={"data": data}))


DPO = workload(MISTRAL, PAIRS, "dpo", num_train_epochs=3, activation_checkpointing=True)
