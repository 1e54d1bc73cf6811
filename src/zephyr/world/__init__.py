"""The closed world of the quickstart: a small vocabulary, tasks that a program can check, and text about both."""

from zephyr.world.answers import (
    Fault,
    FaultyAnswer,
    Findings,
    check,
    examine,
    faulty_answer,
    ideal_answer,
    is_known,
    task_of,
)
from zephyr.world.catalogue import TASK_NAMES
from zephyr.world.prompts import Split, prompts, split_of
from zephyr.world.texts import pretrain_texts

__all__ = [
    "TASK_NAMES",
    "Fault",
    "FaultyAnswer",
    "Findings",
    "Split",
    "check",
    "examine",
    "faulty_answer",
    "ideal_answer",
    "is_known",
    "pretrain_texts",
    "prompts",
    "split_of",
    "task_of",
]
