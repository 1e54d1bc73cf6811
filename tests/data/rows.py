"""Rows as the tests of filters write them: texts in, records out."""

from collections.abc import Sequence

from zephyr.records.messages import Message, Messages
from zephyr.records.rows import Answer, Chat, Preference, Prompt, Rated


def turns(*texts: str) -> Messages:
    """Messages of user and assistant in turns."""
    roles = ("user", "assistant")
    return tuple(Message(roles[place % 2], text) for place, text in enumerate(texts))


def chat(*texts: str, name: str = "chats.jsonl row 1") -> Chat:
    return Chat(name, turns(*texts))


def prompt(*texts: str, name: str = "prompts.jsonl row 1") -> Prompt:
    return Prompt(name, turns(*texts))


def pair(
    question: str, *completions: str, ratings: Sequence[float] = (2.0, 1.0), name: str = "pairs.jsonl row 1"
) -> Preference:
    return Preference(name, turns(question), completions, tuple(ratings))


def rated(question: str, *answers: Answer | str, name: str = "rated.jsonl row 1") -> Rated:
    made = (Answer(answer) if isinstance(answer, str) else answer for answer in answers)
    return Rated(name, turns(question), tuple(made))
