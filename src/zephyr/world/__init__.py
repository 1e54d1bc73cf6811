"""The closed world of the quickstart: a small vocabulary, tasks that a program can check, and text about both."""

from zephyr.world.answers import (
    AnswerFault,
    FaultyAnswer,
    Findings,
    examine,
    faulty_answer,
    ideal_answer,
    is_accepted,
    is_known,
    task_of,
)
from zephyr.world.catalogue import TASK_NAMES
from zephyr.world.prompts import (
    FEEDBACK_SPLIT,
    HELDOUT_SPLIT,
    TRAIN_SPLIT,
    PromptSplit,
    pretrain_texts,
    prompts,
    split_of,
)

__all__ = [
    "FEEDBACK_SPLIT",
    "HELDOUT_SPLIT",
    "TASK_NAMES",
    "TRAIN_SPLIT",
    "AnswerFault",
    "FaultyAnswer",
    "Findings",
    "PromptSplit",
    "examine",
    "faulty_answer",
    "ideal_answer",
    "is_accepted",
    "is_known",
    "pretrain_texts",
    "prompts",
    "split_of",
    "task_of",
]
