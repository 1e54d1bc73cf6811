"""Dialogues of several turns: the user tells something first and asks for it later."""

from random import Random

from zephyr.world.question import Phrasing, QuestionKind, Slots, nearby, short_answer
from zephyr.world.vocabulary import ANIMALS, COLOUR_WORDS, NAMES, THINGS

_COUNTED = ("cats", "dogs", "hats", "keys", "books", "boats")


def _pet(rng: Random) -> Slots:
    return {"animal": rng.choice(ANIMALS), "name": rng.choice(NAMES)}


QUESTIONS: tuple[QuestionKind, ...] = (
    short_answer(
        "remember_name",
        (
            Phrasing(
                "What is my name?", tells="My name is {name}, and I have a {animal}.", reply="Nice to meet you, {name}."
            ),
            Phrasing("Who am I?", tells="I am {name}. This is my {animal}.", reply="Nice to meet you, {name}."),
        ),
        _pet,
        solve=lambda slots: slots["name"],
        mistakes=lambda _slots: NAMES,
        statement="My name is {answer}, and I have a {animal}.",
        answer="You are {}.",
    ),
    short_answer(
        "remember_colour",
        (
            Phrasing("What colour is my {thing}?", tells="My {thing} is {colour}.", reply="A fine colour."),
            Phrasing("Which colour has my {thing}?", tells="I have a {colour} {thing}.", reply="A fine colour."),
        ),
        lambda rng: {"colour": rng.choice(COLOUR_WORDS), "thing": rng.choice(THINGS)},
        solve=lambda slots: slots["colour"],
        mistakes=lambda _slots: COLOUR_WORDS,
        statement="I have a {answer} {thing}. My {thing} is {answer}.",
    ),
    short_answer(
        "remember_pet",
        (
            Phrasing(
                "What is my {animal} called?", tells="I have a {animal} called {name}.", reply="What a good name."
            ),
            Phrasing("Who is my {animal}?", tells="My {animal} is called {name}.", reply="What a good name."),
        ),
        _pet,
        solve=lambda slots: slots["name"],
        mistakes=lambda _slots: NAMES,
        statement="I have a {animal} called {answer}. My {animal} is called {answer}.",
    ),
    short_answer(
        "remember_number",
        (
            Phrasing("How many {plural} do I have?", tells="I have {n} {plural}.", reply="That is good to know."),
            Phrasing(
                "How many {plural} are mine?",
                tells="There are {n} {plural} in my house.",
                reply="That is good to know.",
            ),
        ),
        lambda rng: {"n": str(rng.randint(2, 9)), "plural": rng.choice(_COUNTED)},
        solve=lambda slots: slots["n"],
        mistakes=lambda slots: nearby(int(slots["n"]), lowest=1),
        statement="I have {n} {plural}. So {n} {plural} are mine.",
    ),
)
