"""Prompts of the world in three splits that share no question: the question's own hash says where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Prompt, prompt_id
from zephyr.world.catalogue import TASK_NAMES, user_turns, write_question

Split = Literal["train", "feedback", "heldout"]

# Shares of all questions, in hundredths of the hash's range.
_HELDOUT_BELOW = 15
_FEEDBACK_BELOW = 35
_BUCKETS = 100
# Draws without a new prompt after which a task has no more of them.
_PATIENCE = 500


def split_of(messages: Messages) -> Split:
    """The split a prompt belongs to, by the hash of its question."""
    bucket = int(prompt_id((Message("user", _question_text(messages)),))[:8], 16) % _BUCKETS
    if bucket < _HELDOUT_BELOW:
        return "heldout"
    return "feedback" if bucket < _FEEDBACK_BELOW else "train"


def prompts(split: Split, seed: int, count: int) -> Iterator[Prompt]:
    """``count`` prompts of a split, task after task in turn; the first n are the same whatever the count.

    Held-out prompts ask different questions, and there can be fewer than ``count`` of them; of the feedback prompts no
    two are equal. Prompts to train on may come again, as the world is small.
    """
    rng = Random(f"{split} prompts {seed}")
    seen: set[object] = set()
    names = list(TASK_NAMES)
    number = 0
    while number < count and names:
        for name in tuple(names):
            messages = _new_prompt(name, split, seen, rng)
            if messages is None:
                names.remove(name)
                continue
            number += 1
            yield Prompt(f"world {split} prompt {number}", messages, "world")
            if number == count:
                return


def _new_prompt(name: str, split: Split, seen: set[object], rng: Random) -> Messages | None:
    for _ in range(_PATIENCE):
        messages = write_question(name, rng)
        if split_of(messages) != split:
            continue
        if split == "train":
            return messages
        mark = _question_text(messages) if split == "heldout" else messages
        if mark not in seen:
            seen.add(mark)
            return messages
    return None


def _question_text(messages: Messages) -> str:
    """What is asked and what was told for it, without greetings, system message and interruptions.

    So a question that is held out is never trained on in another dress.
    """
    turns = user_turns(messages)
    return "\n".join(turns[:1] + turns[1:][-1:])
