"""What a kind of question is: its phrasings with slots, its right answers, its usual faults, and its truth as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from zephyr.records.messages import Message, Messages

Slots = Mapping[str, str]

# What may stand in a slot of this name; in any other, one word.
_PATTERNS = {
    "a": r"\d+",
    "b": r"\d+",
    "n": r"\d+",
    "words": r"[a-z]+(?:, [a-z]+)+",
    "kind": r"an? [a-z]+",
    "closing": r".+",
}


@dataclass(frozen=True)
class Phrasing:
    """A question, and what the user told in an earlier turn if it is about that, with the reply to the telling."""

    asks: str
    tells: str = ""
    reply: str = ""

    def write(self, slots: Slots) -> Messages:
        """The user's turns with the slots filled, and the reply between them."""
        question = Message("user", self.asks.format_map(slots))
        if not self.tells:
            return (question,)
        told = Message("user", self.tells.format_map(slots))
        return (told, Message("assistant", self.reply.format_map(slots)), question)

    def read(self, messages: Messages) -> dict[str, str] | None:
        """The slots, if the last turn asks this and, where something must have been told, an earlier one told it."""
        asked = self._asking.fullmatch(messages[-1].content)
        if asked is None:
            return None
        slots = asked.groupdict()
        if not self.tells:
            return slots
        earlier = (self._telling.fullmatch(one.content) for one in messages[:-1] if one.role == "user")
        for told in earlier:
            # A word that both turns name must be the same one.
            if told and all(slots.get(name, value) == value for name, value in told.groupdict().items()):
                return slots | told.groupdict()
        return None

    @cached_property
    def _asking(self) -> re.Pattern[str]:
        return _reader(self.asks)

    @cached_property
    def _telling(self) -> re.Pattern[str]:
        return _reader(self.tells)


def _reader(template: str) -> re.Pattern[str]:
    """The pattern of all texts that the template can become."""
    parts = re.split(r"\{(\w+)\}", template)
    seen: set[str] = set()
    pattern = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            pattern += f"(?P<{part}>{_PATTERNS.get(part, '[A-Za-z]+')})"
            seen.add(part)
    return re.compile(pattern)


Draw = Callable[[Random], Slots]
Write = Callable[[Slots, Random], str]
Test = Callable[[Slots, str], bool]


def always(_slots: Slots, _answer: str) -> bool:
    """True: no form is requested."""
    return True


@dataclass(frozen=True)
class QuestionKind:
    """One kind of question. All functions see the slots of the question alone.

    ``ideal`` writes a right answer, ``wrong`` one with a false content, ``careless`` one that forgets the format (None
    where no format is requested), ``statement`` a sentence of plain text that holds the same truth. ``is_right`` tests
    the content of an answer, ``in_form`` the requested format.
    """

    name: str
    phrasings: tuple[Phrasing, ...]
    draw: Draw
    ideal: Write
    wrong: Write
    is_right: Test
    statement: Write
    in_form: Test = always
    careless: Write | None = None


def short_answer(
    name: str,
    phrasings: Sequence[Phrasing],
    draw: Draw,
    *,
    solve: Callable[[Slots], str],
    mistakes: Callable[[Slots], Collection[str]],
    statement: str,
    answer: str = "It is {}.",
) -> QuestionKind:
    """A task whose answer is one word or number.

    ``mistakes`` are the words that can be confused with it. ``statement`` may hold the question's slots and {answer}.
    """

    def ideal(slots: Slots, _rng: Random) -> str:
        return answer.format(solve(slots))

    def wrong(slots: Slots, rng: Random) -> str:
        value = solve(slots)
        return answer.format(rng.choice(sorted(word for word in mistakes(slots) if word != value)))

    def is_right(slots: Slots, text: str) -> bool:
        return last_mention(text, {*mistakes(slots), solve(slots)}) == solve(slots)

    def state(slots: Slots, _rng: Random) -> str:
        return statement.format(**slots, answer=solve(slots))

    return QuestionKind(name, tuple(phrasings), draw, ideal, wrong, is_right, state)


def phrasings_of(*questions: str) -> tuple[Phrasing, ...]:
    """Phrasings of questions that stand alone."""
    return tuple(Phrasing(question) for question in questions)


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def last_mention(text: str, candidates: Collection[str]) -> str | None:
    """The last word of the text that is one of the candidates; any number counts if one of them is a number."""
    known = {word.lower(): word for word in candidates}
    numeric = any(word.isdigit() for word in known)
    found = [word for word in words_of(text) if word in known or (numeric and word.isdigit())]
    return known.get(found[-1], found[-1]) if found else None


def word_lists(text: str) -> list[list[str]]:
    """Every list of words, divided by commas, that stands in a text."""
    return [match.split(", ") for match in re.findall(r"\b[a-z]+(?:, [a-z]+)+\b", text.lower())]


def nearby(value: int, *, lowest: int = 0) -> list[str]:
    """Numbers close to one, as slips of calculation are."""
    return [str(near) for near in range(value - 3, value + 4) if near >= lowest and near != value]
