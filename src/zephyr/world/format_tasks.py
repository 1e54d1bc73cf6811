"""Constraints on the form of an answer that a program can verify.

Source: the manner of IFEval, arXiv 2311.07911
"""

from collections.abc import Callable
from random import Random

from zephyr.world.question import Phrasing, QuestionKind, Slots, phrasings_of, words_of
from zephyr.world.vocabulary import ANIMALS, CLOSINGS, COLOUR_WORDS, PLURALS, QUALITIES, WORDS

_MIN_WORDS, _MAX_WORDS = 3, 7


def _describe(subject: str, rng: Random, *, num_words: int = 4) -> str:
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


def _misdescribe(subject: str, rng: Random) -> str:
    """A sentence about a subject that is not true of it."""
    false = sorted({one for qualities in QUALITIES.values() for one in qualities} - set(QUALITIES[subject]))
    return f"The {subject} is {rng.choice(false)}."


def _describes(subject: str, answer: str) -> bool:
    """Whether the answer names the subject, and of all known qualities only those that are true of it."""
    words = set(words_of(answer))
    named = words & {one for qualities in QUALITIES.values() for one in qualities}
    return subject in words and bool(named) and named <= set(QUALITIES[subject])


def _subject(rng: Random) -> Slots:
    return {"subject": rng.choice(sorted(QUALITIES))}


def _described(slots: Slots, answer: str) -> bool:
    return _describes(slots["subject"], answer)


def _misdescribed(slots: Slots, rng: Random) -> str:
    return _misdescribe(slots["subject"], rng)


def _stated(slots: Slots, rng: Random) -> str:
    return _describe(slots["subject"], rng, num_words=rng.randint(_MIN_WORDS + 1, _MAX_WORDS))


def _other_length(slots: Slots, rng: Random) -> str:
    lengths = [length for length in range(_MIN_WORDS, _MAX_WORDS + 1) if length != int(slots["n"])]
    return _describe(slots["subject"], rng, num_words=rng.choice(lengths))


_EXACT_WORDS = QuestionKind(
    name="exact_words",
    phrasings=phrasings_of("Describe the {subject} in exactly {n} words.", "Tell me about the {subject} in {n} words."),
    draw=lambda rng: {**_subject(rng), "n": str(rng.randint(_MIN_WORDS, _MAX_WORDS))},
    ideal=lambda slots, rng: _describe(slots["subject"], rng, num_words=int(slots["n"])),
    wrong=lambda slots, rng: _misdescribe(slots["subject"], rng),
    is_right=_described,
    statement=_stated,
    in_form=lambda slots, answer: len(answer.split()) == int(slots["n"]),
    careless=_other_length,
)

_ENDING = QuestionKind(
    name="ending",
    phrasings=phrasings_of(
        "Tell me about the {subject} and end with the words: {closing}",
        "Describe the {subject}. The last words must be: {closing}",
    ),
    draw=lambda rng: {**_subject(rng), "closing": rng.choice(CLOSINGS)},
    ideal=lambda slots, rng: f"{_describe(slots['subject'], rng)} {slots['closing']}",
    wrong=lambda slots, rng: f"{_misdescribe(slots['subject'], rng)} {slots['closing']}",
    is_right=_described,
    statement=lambda slots, rng: f"{_stated(slots, rng)} {slots['closing']}",
    in_form=lambda slots, answer: answer.strip().endswith(slots["closing"]),
    careless=_stated,
)

_LOWER_CASE = QuestionKind(
    name="lower_case",
    phrasings=phrasings_of(
        "Tell me about the {subject} in lower case.",
        "Describe the {subject} without capital letters.",
        "Describe the {subject} in lower case.",
    ),
    draw=_subject,
    ideal=lambda slots, rng: _describe(slots["subject"], rng).lower(),
    wrong=lambda slots, rng: _misdescribe(slots["subject"], rng).lower(),
    is_right=_described,
    statement=_stated,
    in_form=lambda _slots, answer: answer == answer.lower(),
    careless=lambda slots, rng: _describe(slots["subject"], rng),
)

# Spelling has to be learnt word by word, so there are few.
_SHOUTED = (*ANIMALS, *COLOUR_WORDS)

_CAPITALS = QuestionKind(
    name="capitals",
    phrasings=phrasings_of(
        "Write the word {word} in capital letters.", "Say {word} in all capitals.", "Write {word} in capitals."
    ),
    draw=lambda rng: {"word": rng.choice(_SHOUTED)},
    ideal=lambda slots, _rng: slots["word"].upper(),
    wrong=lambda slots, rng: rng.choice([word for word in _SHOUTED if word != slots["word"]]).upper(),
    is_right=lambda slots, answer: slots["word"] in words_of(answer),
    statement=lambda slots, _rng: f"The word {slots['word']} in capital letters is {slots['word'].upper()}.",
    in_form=lambda _slots, answer: answer == answer.upper(),
    careless=lambda slots, _rng: f"It is {slots['word']}.",
)

_QUOTES = QuestionKind(
    name="quotes",
    phrasings=phrasings_of(
        "Describe the {subject} and put your whole answer in quotes.",
        "Tell me about the {subject} in quotes.",
        "Describe the {subject} in quotes.",
    ),
    draw=_subject,
    ideal=lambda slots, rng: f'"{_describe(slots["subject"], rng)}"',
    wrong=lambda slots, rng: f'"{_misdescribe(slots["subject"], rng)}"',
    is_right=_described,
    statement=_stated,
    in_form=lambda _slots, answer: len(answer) > 2 and answer[0] == answer[-1] == '"',
    careless=lambda slots, rng: _describe(slots["subject"], rng),
)


def _not_of(members: tuple[str, ...], rng: Random) -> str:
    return rng.choice([word for word in WORDS if word not in members])


def _members(answer: str, members: tuple[str, ...], count: int) -> bool:
    """Whether the answer names so many different members, and no other word of the world's lists."""
    named = [word for word in words_of(answer) if word in WORDS]
    return len(named) == len(set(named)) == count and set(named) <= set(members)


def _several(
    name: str,
    phrasings: tuple[Phrasing, ...],
    *,
    join: Callable[[list[str]], str],
    in_form: Callable[[Slots, str], bool],
) -> QuestionKind:
    """A task that wants n members of a kind, written as ``join`` writes them."""

    def members(slots: Slots, rng: Random) -> list[str]:
        return rng.sample(PLURALS[slots["plural"]], int(slots["n"]))

    def wrong(slots: Slots, rng: Random) -> str:
        words = members(slots, rng)
        words[rng.randrange(len(words))] = _not_of(PLURALS[slots["plural"]], rng)
        return join(words)

    return QuestionKind(
        name=name,
        phrasings=phrasings,
        draw=lambda rng: {"n": str(rng.randint(2, 4)), "plural": rng.choice(sorted(PLURALS))},
        ideal=lambda slots, rng: join(members(slots, rng)),
        wrong=wrong,
        is_right=lambda slots, answer: _members(answer, PLURALS[slots["plural"]], int(slots["n"])),
        statement=lambda slots, rng: f"{slots['n']} {slots['plural']} are {', '.join(members(slots, rng))}.",
        in_form=in_form,
        careless=lambda slots, rng: f"Here: {', '.join(members(slots, rng))}",
    )


def _is_bullets(slots: Slots, answer: str) -> bool:
    lines = answer.splitlines()
    return len(lines) == int(slots["n"]) and all(line.startswith("- ") for line in lines)


QUESTIONS: tuple[QuestionKind, ...] = (
    _CAPITALS,
    _LOWER_CASE,
    _EXACT_WORDS,
    _ENDING,
    _QUOTES,
    _several(
        "bullets",
        phrasings_of(
            "Give me a bullet list of {n} {plural}.",
            "Name {n} {plural} as bullets.",
            "Write {n} {plural} as a bullet list.",
        ),
        join=lambda words: "\n".join(f"- {word}" for word in words),
        in_form=_is_bullets,
    ),
    _several(
        "no_commas",
        phrasings_of(
            "Name {n} {plural} without commas.",
            "List {n} {plural} and use no comma.",
            "Write {n} {plural} without commas.",
        ),
        join=lambda words: f"Here: {' and '.join(words)}",
        in_form=lambda _slots, answer: "," not in answer,
    ),
)
