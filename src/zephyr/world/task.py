"""What a task of the world is: how it is asked, its right answers, its usual faults, and its truth in plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from zephyr.world.phrasing import Phrasing, Slots

Draw = Callable[[Random], Slots]
Write = Callable[[Slots, Random], str]
Test = Callable[[Slots, str], bool]


def always(_slots: Slots, _answer: str) -> bool:
    """True: nothing is asked of the form."""
    return True


@dataclass(frozen=True)
class Task:
    """One kind of question. All functions see the slots of the question alone.

    ``ideal`` writes a right answer, ``wrong`` one with a false content, ``careless`` one that forgets the format (None
    where none is asked for), ``statement`` a sentence of plain text that holds the same truth. ``is_right`` tests the
    content of an answer, ``in_form`` the format that was asked for.
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
) -> Task:
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

    return Task(name, tuple(phrasings), draw, ideal, wrong, is_right, state)


def asked(*questions: str) -> tuple[Phrasing, ...]:
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
