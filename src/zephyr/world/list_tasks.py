"""Lists of words: backwards, sorted, counted."""

from collections.abc import Callable
from random import Random

from zephyr.world.question import Phrasing, QuestionKind, Slots, nearby, phrasings_of, short_answer, word_lists
from zephyr.world.vocabulary import WORDS

Arrange = Callable[[list[str]], list[str]]


def _list_of(fewest: int, most: int) -> Callable[[Random], Slots]:
    def draw(rng: Random) -> Slots:
        return {"words": ", ".join(rng.sample(WORDS, rng.randint(fewest, most)))}

    return draw


def _arrangement(
    name: str, phrasings: tuple[Phrasing, ...], most: int, *, arrange: Arrange, called: str
) -> QuestionKind:
    """A task that wants the words of a list in another order, which plain text calls ``called``."""

    def value(slots: Slots) -> list[str]:
        return arrange(slots["words"].split(", "))

    def wrong(slots: Slots, rng: Random) -> str:
        words = value(slots)
        while words == value(slots):
            rng.shuffle(words)
        return f"Here: {', '.join(words)}"

    return QuestionKind(
        name=name,
        phrasings=phrasings,
        draw=_list_of(2, most),
        ideal=lambda slots, _rng: f"Here: {', '.join(value(slots))}",
        wrong=wrong,
        is_right=lambda slots, answer: word_lists(answer)[-1:] == [value(slots)],
        statement=lambda slots, _rng: f"The list {slots['words']} {called} is {', '.join(value(slots))}.",
    )


QUESTIONS: tuple[QuestionKind, ...] = (
    _arrangement(
        "reverse",
        phrasings_of(
            "Reverse this list: {words}.", "Write this list backwards: {words}.", "Say {words} in reverse order."
        ),
        4,
        arrange=lambda words: words[::-1],
        called="backwards",
    ),
    _arrangement(
        "sort",
        phrasings_of(
            "Sort this list: {words}.",
            "Put {words} in alphabetical order.",
            "Order these words by the alphabet: {words}.",
        ),
        3,
        arrange=sorted,
        called="in alphabetical order",
    ),
    short_answer(
        "count",
        phrasings_of(
            "How many words are in this list: {words}?", "Count the words: {words}.", "How long is the list {words}?"
        ),
        _list_of(2, 5),
        solve=lambda slots: str(len(slots["words"].split(", "))),
        mistakes=lambda slots: nearby(len(slots["words"].split(", ")), lowest=1),
        statement="The list {words} has {answer} words.",
    ),
)
