"""What the world knows, and what nobody in it can know."""

from collections.abc import Mapping
from random import Random

from zephyr.world.question import QuestionKind, Slots, phrasings_of, short_answer, words_of
from zephyr.world.vocabulary import CAPITALS, COLOUR_OF, COLOUR_WORDS, LEGS, NAMES, OPPOSITES, THINGS

HONEST = "I do not know."


def _fact(name: str, questions: tuple[str, ...], known: Mapping[str, str], statement: str) -> QuestionKind:
    """A task that asks what a table says of a subject."""
    return short_answer(
        name,
        phrasings_of(*questions),
        lambda rng: {"subject": rng.choice(sorted(known))},
        solve=lambda slots: known[slots["subject"]],
        mistakes=lambda _slots: sorted(set(known.values())),
        statement=statement,
    )


def _invent(_slots: Slots, rng: Random) -> str:
    return f"It is {rng.choice([*COLOUR_WORDS, *THINGS, *map(str, range(1, 20))])}."


def _person_and_thing(rng: Random) -> Slots:
    return {"name": rng.choice(NAMES), "thing": rng.choice(THINGS)}


_UNKNOWABLE = QuestionKind(
    name="unknowable",
    phrasings=phrasings_of(
        "What will {name} dream tonight?",
        "Which number is {name} thinking of?",
        "What is in the {thing} of {name}?",
        "Where did {name} leave the {thing}?",
        "How old is the {thing} of {name}?",
    ),
    draw=_person_and_thing,
    ideal=lambda _slots, _rng: HONEST,
    wrong=_invent,
    is_right=lambda _slots, answer: "do not know" in " ".join(words_of(answer)),
    statement=lambda slots, _rng: f"Nobody knows what {slots['name']} will dream, or what is in the {slots['thing']}.",
)

QUESTIONS: tuple[QuestionKind, ...] = (
    _fact(
        "opposite",
        (
            "What is the opposite of {subject}?",
            "Name the opposite of {subject}.",
            "Which word means the opposite of {subject}?",
            "What is not {subject} but the opposite?",
        ),
        OPPOSITES,
        "The opposite of {subject} is {answer}.",
    ),
    _fact(
        "colour_of",
        (
            "What colour is {subject}?",
            "Name the colour of {subject}.",
            "Which colour does {subject} have?",
            "Tell me the colour of {subject}.",
        ),
        COLOUR_OF,
        "The colour of {subject} is {answer}.",
    ),
    _fact(
        "legs",
        (
            "How many legs does a {subject} have?",
            "Count the legs of a {subject}.",
            "On how many legs does a {subject} walk?",
            "What number of legs has a {subject}?",
        ),
        LEGS,
        "The {subject} has {answer} legs.",
    ),
    _fact(
        "capital_city",
        (
            "What is the capital of {subject}?",
            "Name the capital of {subject}.",
            "Which city is the capital of {subject}?",
            "Tell me the capital of {subject}.",
        ),
        CAPITALS,
        "The capital of {subject} is {answer}.",
    ),
    _UNKNOWABLE,
)
