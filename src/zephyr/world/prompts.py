"""What the world gives to train on: prompts in three splits that share no question, and plain texts.

The hash of a question decides its split. The texts state what the questions ask, and let people repeat lists: small
models learn late to copy what stands before, and every task on lists needs it. Induction heads: arXiv 2209.11895
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, Literal

from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Prompt, Text, prompt_id
from zephyr.world.catalogue import QUESTIONS, TASK_NAMES, user_turns, write_question
from zephyr.world.vocabulary import NAMES, WORDS

PromptSplit = Literal["train", "feedback", "heldout"]
TRAIN_SPLIT: Final = "train"
FEEDBACK_SPLIT: Final = "feedback"
HELDOUT_SPLIT: Final = "heldout"

_SENTENCES = (3, 6)
_LENGTHS = (3, 7)
_ECHO_SHARE = 0.5
_SAID = (*WORDS, *NAMES, *map(str, range(1, 21)))

# Shares of all questions, in hundredths of the hash's range.
_HELDOUT_BELOW = 15
_FEEDBACK_BELOW = 35
_BUCKETS = 100
# Draws without a new prompt after which a task has no more of them.
_PATIENCE = 500


def split_of(messages: Messages) -> PromptSplit:
    """The split a prompt belongs to, by the hash of its question."""
    bucket = int(prompt_id((Message("user", _question_text(messages)),))[:8], 16) % _BUCKETS
    if bucket < _HELDOUT_BELOW:
        return HELDOUT_SPLIT
    return FEEDBACK_SPLIT if bucket < _FEEDBACK_BELOW else TRAIN_SPLIT


def prompts(split: PromptSplit, seed: int, count: int) -> Iterator[Prompt]:
    """``count`` prompts of a split, task after task in turn; the first n are the same for every count.

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


def _new_prompt(name: str, split: PromptSplit, seen: set[object], rng: Random) -> Messages | None:
    for _ in range(_PATIENCE):
        messages = write_question(name, rng)
        if split_of(messages) != split:
            continue
        if split == TRAIN_SPLIT:
            return messages
        mark = _question_text(messages) if split == HELDOUT_SPLIT else messages
        if mark not in seen:
            seen.add(mark)
            return messages
    return None


def _question_text(messages: Messages) -> str:
    """What is asked and what was told for it, without greetings, system message and interruptions.

    So a question that is held out is never trained on in other words.
    """
    turns = user_turns(messages)
    return "\n".join(turns[:1] + turns[1:][-1:])


def pretrain_texts(seed: int, count: int) -> Iterator[Text]:
    """``count`` texts of a few sentences each."""
    rng = Random(f"texts {seed}")
    tasks = list(QUESTIONS.values())
    for number in range(1, count + 1):
        told = rng.choices(tasks, k=rng.randint(*_SENTENCES))
        sentences = [task.statement(task.draw(rng), rng) for task in told]
        if rng.random() < _ECHO_SHARE:
            sentences.insert(rng.randrange(len(sentences) + 1), _echo(rng))
        yield Text(f"world text {number}", " ".join(sentences), "world")


def _echo(rng: Random) -> str:
    """Somebody says a list, and somebody else says it again, or backwards."""
    said = rng.sample(_SAID, rng.randint(*_LENGTHS))
    first, second = rng.sample(NAMES, 2)
    again, how = (said, "again") if rng.random() < 0.6 else (said[::-1], "backwards")
    return f"{first} says: {', '.join(said)}. {second} says it {how}: {', '.join(again)}."
