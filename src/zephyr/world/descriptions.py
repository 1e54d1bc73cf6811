"""Short sentences about the subjects of the world, and whether a sentence is true of one."""

from random import Random

from zephyr.world.task import words_of
from zephyr.world.vocabulary import QUALITIES

FEWEST_WORDS, MOST_WORDS = 3, 7


def describe(subject: str, rng: Random, *, num_words: int = 4) -> str:
    """A true sentence of so many words about a subject."""
    first, second = rng.sample(QUALITIES[subject], 2)
    sentences = {
        3: f"The {first} {subject}.",
        4: f"The {subject} is {first}.",
        5: f"The {subject} is very {first}.",
        6: f"The {subject} is {first} and {second}.",
        7: f"The {subject} is very {first} and {second}.",
    }
    return sentences[num_words]


def misdescribe(subject: str, rng: Random) -> str:
    """A sentence about a subject that is not true of it."""
    false = sorted({one for qualities in QUALITIES.values() for one in qualities} - set(QUALITIES[subject]))
    return f"The {subject} is {rng.choice(false)}."


def describes(subject: str, answer: str) -> bool:
    """Whether the answer names the subject, and of all known qualities only those that are true of it."""
    words = set(words_of(answer))
    named = words & {one for qualities in QUALITIES.values() for one in qualities}
    return subject in words and bool(named) and named <= set(QUALITIES[subject])
