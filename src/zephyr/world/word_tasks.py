"""Single words: letters, lengths, repetition, and which word stands where."""

import re
from random import Random

from zephyr.world.question import QuestionKind, Slots, phrasings_of, short_answer, words_of
from zephyr.world.vocabulary import KIND_MEMBERS, NOUNS, WORDS

_MOST_REPEATS = 5
_PLACES = ("first", "second", "last")


def _unequal_words(rng: Random) -> Slots:
    while True:
        first, second = rng.sample(NOUNS, 2)
        if len(first) != len(second):
            return {"one": first, "other": second}


def _repetition(rng: Random) -> Slots:
    return {"word": rng.choice(WORDS), "n": str(rng.randint(2, _MOST_REPEATS))}


def _placed(rng: Random) -> Slots:
    return {"place": rng.choice(_PLACES), "words": ", ".join(rng.sample(WORDS, rng.randint(3, 4)))}


def _one_of_kind(rng: Random) -> Slots:
    kind = rng.choice(sorted(KIND_MEMBERS))
    words = [*rng.sample([word for word in WORDS if word not in KIND_MEMBERS[kind]], 2), rng.choice(KIND_MEMBERS[kind])]
    rng.shuffle(words)
    return {"kind": kind, "words": ", ".join(words)}


def _at_place(slots: Slots) -> str:
    words = slots["words"].split(", ")
    return {"first": words[0], "second": words[1], "last": words[-1]}[slots["place"]]


def _of_kind(slots: Slots) -> str:
    return next(word for word in slots["words"].split(", ") if word in KIND_MEMBERS[slots["kind"]])


def _repeated(word: str, count: int) -> str:
    return f"Here: {' '.join([word] * count)}"


def _says_repeated(slots: Slots, answer: str) -> bool:
    words, word = words_of(answer), slots["word"]
    return words.count(word) == int(slots["n"]) and f"{word} {word}" in " ".join(words)


def _repeated_wrongly(slots: Slots, rng: Random) -> str:
    counts = [count for count in range(1, _MOST_REPEATS + 2) if count != int(slots["n"])]
    return _repeated(slots["word"], rng.choice(counts))


def _names_letter(slots: Slots, answer: str) -> bool:
    """Whether a letter is named at the end: "a" and "I" are words of one letter that any sentence may hold."""
    named = re.search(r"(?:^|\bletter )\W*([a-z])\W*$", answer.lower())
    return named is not None and named[1] == slots["word"][0]


def _other_letter(slots: Slots, rng: Random) -> str:
    return _letter(rng.choice(sorted({word[0] for word in WORDS} - {slots["word"][0]})))


def _letter(letter: str) -> str:
    return f"It is the letter {letter}."


_FIRST_LETTER = QuestionKind(
    name="first_letter",
    phrasings=phrasings_of(
        "What is the first letter of {word}?",
        "Which letter does {word} begin with?",
        "Name the first letter of {word}.",
    ),
    draw=lambda rng: {"word": rng.choice(WORDS)},
    ideal=lambda slots, _rng: _letter(slots["word"][0]),
    wrong=_other_letter,
    is_right=_names_letter,
    statement=lambda slots, _rng: f"The word {slots['word']} begins with the letter {slots['word'][0]}.",
)

_REPEAT = QuestionKind(
    name="repeat",
    phrasings=phrasings_of("Say {word} {n} times.", "Repeat the word {word} {n} times.", "Write {word} {n} times."),
    draw=_repetition,
    ideal=lambda slots, _rng: _repeated(slots["word"], int(slots["n"])),
    wrong=_repeated_wrongly,
    is_right=_says_repeated,
    statement=lambda slots, _rng: (
        f"{' '.join([slots['word']] * int(slots['n']))} is {slots['word']} {slots['n']} times."
    ),
)

QUESTIONS: tuple[QuestionKind, ...] = (
    _FIRST_LETTER,
    short_answer(
        "longer_word",
        phrasings_of("Which word is longer, {one} or {other}?", "Name the longer word: {one} or {other}."),
        _unequal_words,
        solve=lambda slots: max(slots["one"], slots["other"], key=len),
        mistakes=lambda slots: (slots["one"], slots["other"]),
        statement="Of {one} and {other} the longer word is {answer}.",
    ),
    short_answer(
        "place_in_list",
        phrasings_of("Which word is {place} in this list: {words}?", "Name the {place} word of {words}."),
        _placed,
        solve=_at_place,
        mistakes=lambda slots: slots["words"].split(", "),
        statement="In the list {words} the {place} word is {answer}.",
    ),
    short_answer(
        "pick_kind",
        phrasings_of("Which of these is {kind}: {words}?", "Find {kind} in this list: {words}."),
        _one_of_kind,
        solve=_of_kind,
        mistakes=lambda slots: slots["words"].split(", "),
        statement="Of {words} the word {answer} is {kind}.",
    ),
    _REPEAT,
)
