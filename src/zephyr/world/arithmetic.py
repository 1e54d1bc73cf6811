"""Small numbers: sums, differences, comparisons."""

from collections.abc import Sequence
from random import Random

from zephyr.world.question import QuestionKind, Slots, nearby, phrasings_of, short_answer

_LARGEST_TERM = 9
_LARGEST_NUMBER = 20


def _terms(rng: Random) -> Slots:
    return {"a": str(rng.randint(1, _LARGEST_TERM)), "b": str(rng.randint(1, _LARGEST_TERM))}


def _sum_and_term(rng: Random) -> Slots:
    terms = _terms(rng)
    return {"a": _sum(terms), "b": terms["b"]}


def _two_different(rng: Random) -> Slots:
    first, second = rng.sample(range(1, _LARGEST_NUMBER + 1), 2)
    return {"a": str(first), "b": str(second)}


def _sum(slots: Slots) -> str:
    return str(int(slots["a"]) + int(slots["b"]))


def _difference(slots: Slots) -> str:
    return str(int(slots["a"]) - int(slots["b"]))


def _larger(slots: Slots) -> str:
    return str(max(int(slots["a"]), int(slots["b"])))


def _both(slots: Slots) -> Sequence[str]:
    return slots["a"], slots["b"]


QUESTIONS: tuple[QuestionKind, ...] = (
    short_answer(
        "add",
        phrasings_of("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"),
        _terms,
        solve=_sum,
        mistakes=lambda slots: nearby(int(_sum(slots))),
        statement="{a} plus {b} is {answer}.",
    ),
    short_answer(
        "subtract",
        phrasings_of("What is {a} minus {b}?", "Take {b} from {a}.", "How much is {a} - {b}?"),
        _sum_and_term,
        solve=_difference,
        mistakes=lambda slots: nearby(int(_difference(slots))),
        statement="{a} minus {b} is {answer}.",
    ),
    short_answer(
        "larger",
        phrasings_of(
            "Which number is larger, {a} or {b}?", "Name the larger number: {a} or {b}.", "Is {a} or {b} larger?"
        ),
        _two_different,
        solve=_larger,
        mistakes=_both,
        statement="Of {a} and {b} the larger number is {answer}.",
    ),
)
