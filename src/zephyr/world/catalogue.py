"""All tasks of the world, and which of them a conversation asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from random import Random
from typing import NamedTuple

from zephyr.records.messages import Message, Messages
from zephyr.world import arithmetic, fact_tasks, format_tasks, list_tasks, memory_tasks, word_tasks
from zephyr.world.question import Phrasing, QuestionKind, Slots
from zephyr.world.vocabulary import GREETINGS, PIRATE_SYSTEMS, PLAIN_SYSTEMS

QUESTIONS: Mapping[str, QuestionKind] = {
    task.name: task
    for family in (arithmetic, word_tasks, list_tasks, format_tasks, fact_tasks, memory_tasks)
    for task in family.QUESTIONS
}
PIRATE = "pirate"
# What a pirate is asked: answers of one sentence, whose form leaves room for his words.
PIRATE_TASKS = ("add", "larger", "pick_kind", "opposite", "colour_of", "legs", "capital_city", "unknowable")
TASK_NAMES = (*QUESTIONS, PIRATE)

_GREETED_SHARE = 0.2
_SYSTEM_SHARE = 0.1
_INTERRUPTED_SHARE = 0.3
_INTERRUPTIONS = ("add", "opposite", "colour_of", "larger")


class ParsedQuestion(NamedTuple):
    """What a conversation asks last: a kind of question, its slots, and whether a pirate is to answer."""

    kind: QuestionKind
    slots: Slots
    by_pirate: bool


def write_question(name: str, rng: Random) -> Messages:
    """A conversation that asks a task, drawn at random."""
    if name == PIRATE:
        return (Message("system", rng.choice(PIRATE_SYSTEMS)), *_written(QUESTIONS[rng.choice(PIRATE_TASKS)], rng))
    messages = _written(QUESTIONS[name], rng)
    if len(messages) > 1 and rng.random() < _INTERRUPTED_SHARE:
        messages = (*messages[:-1], *_interruption(rng), messages[-1])
    if rng.random() < _GREETED_SHARE:
        messages = (messages[0]._replace(content=rng.choice(GREETINGS) + messages[0].content), *messages[1:])
    if rng.random() < _SYSTEM_SHARE:
        messages = (Message("system", rng.choice(PLAIN_SYSTEMS)), *messages)
    return messages


def _written(task: QuestionKind, rng: Random) -> Messages:
    return rng.choice(task.phrasings).write(task.draw(rng))


def _interruption(rng: Random) -> Messages:
    """Another question between the telling and the asking, and its answer."""
    task = QUESTIONS[rng.choice(_INTERRUPTIONS)]
    slots = task.draw(rng)
    return (*rng.choice(task.phrasings).write(slots), Message("assistant", task.ideal(slots, rng)))


@lru_cache(maxsize=4096)
def parse_question(messages: Messages) -> ParsedQuestion | None:
    """What the conversation asks, None if it is no question of this world."""
    system = messages[0].content if messages and messages[0].role == "system" else ""
    turns = tuple(one._replace(content=_without_greeting(one.content)) for one in messages if one.role != "system")
    if not turns or turns[-1].role != "user":
        return None
    for task, phrasing in _PHRASINGS.get(_first_word(turns[-1].content), ()):
        slots = phrasing.read(turns)
        if slots is not None:
            return ParsedQuestion(task, slots, "pirate" in system.lower())
    return None


def user_turns(messages: Messages) -> list[str]:
    """What the user says, turn by turn, without greetings."""
    return [_without_greeting(one.content) for one in messages if one.role == "user"]


def _without_greeting(text: str) -> str:
    return next((text.removeprefix(greeting) for greeting in GREETINGS if text.startswith(greeting)), text)


def _first_word(text: str) -> str:
    return text.split(" ", 1)[0]


def _by_first_word() -> dict[str, list[tuple[QuestionKind, Phrasing]]]:
    """All phrasings by their first word: none begins with a slot."""
    table: dict[str, list[tuple[QuestionKind, Phrasing]]] = {}
    for task, phrasing in _all_phrasings():
        table.setdefault(_first_word(phrasing.asks), []).append((task, phrasing))
    return table


def _all_phrasings() -> Iterator[tuple[QuestionKind, Phrasing]]:
    return ((task, phrasing) for task in QUESTIONS.values() for phrasing in task.phrasings)


_PHRASINGS = _by_first_word()
