"""Right answers, faulty answers, and their checks, from nothing but the text of a conversation."""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

from zephyr.records.messages import Messages
from zephyr.world.catalogue import PIRATE, ParsedQuestion, parse_question
from zephyr.world.question import words_of
from zephyr.world.vocabulary import PIRATE_WORDS

AnswerFault = Literal["wrong", "rambling", "careless", "refusal"]

# How often each fault is made, where the task allows it: rambling is the usual fault of teachers.
_FAULT_WEIGHTS: dict[AnswerFault, float] = {"rambling": 0.45, "refusal": 0.3, "careless": 0.15, "wrong": 0.1}

_RAMBLES = (
    "Well, that is a good question, and there is much to say about it. {} But of course it depends.",
    "Well, let me think about it. There are many ways to see this. {} What do you think about it?",
    "{} I hope this helps you! If you want to know more, please ask me.",
)
_REFUSALS = ("I am sorry, but I cannot help with that.", "I am sorry, but I cannot answer this question.")
_OUT_OF_WORLD = "I am sorry, I do not know that."
# Words that a right answer may have in addition to the shortest one.
_SPARE_WORDS = 4
_PIRATE_SPARE_WORDS = 6
_FEWEST_PIRATE_WORDS = 2


class Findings(NamedTuple):
    """What was found of an answer: its content is right, its form is the requested one, it is brief, it refuses."""

    is_right: bool
    in_form: bool
    is_brief: bool
    refuses: bool

    @property
    def passes(self) -> bool:
        """Whether the answer is right, in form and brief."""
        return self.is_right and self.in_form and self.is_brief


class FaultyAnswer(NamedTuple):
    """An answer that fails its check, and how it does."""

    text: str
    fault: AnswerFault


def is_known(messages: Messages) -> bool:
    """Whether the conversation ends with a question of the world."""
    return parse_question(messages) is not None


def task_of(messages: Messages) -> str:
    """The name of the task that the conversation asks last. Raises ValueError for a question from outside the world."""
    question = _expect_question(messages)
    return PIRATE if question.by_pirate else question.kind.name


def ideal_answer(messages: Messages) -> str:
    """A right answer, always the same one; the honest "I do not know" for a question from outside the world."""
    question = parse_question(messages)
    if question is None:
        return _OUT_OF_WORLD
    return _ideal(question, Random(f"ideal {messages[-1].content}"))


def faulty_answer(messages: Messages, rng: Random) -> FaultyAnswer:
    """An answer with one of the usual faults of teachers. Raises ValueError for a question from outside the world."""
    question = _expect_question(messages)
    allowed = [fault for fault in _FAULT_WEIGHTS if fault != "careless" or _has_form(question)]
    fault = rng.choices(allowed, [_FAULT_WEIGHTS[one] for one in allowed])[0]
    return FaultyAnswer(_with_fault(question, fault, rng), fault)


def examine(messages: Messages, answer: str) -> Findings:
    """The findings about an answer; all are false for a question from outside the world."""
    question = parse_question(messages)
    if question is None:
        return Findings(is_right=False, in_form=False, is_brief=False, refuses=False)
    kind, slots, by_pirate = question
    spoken = words_of(answer)
    speaks_so = (sum(word in PIRATE_WORDS for word in spoken) >= _FEWEST_PIRATE_WORDS) == by_pirate
    shortest = len(words_of(kind.ideal(slots, Random(0))))
    spare = _PIRATE_SPARE_WORDS if by_pirate else _SPARE_WORDS
    return Findings(
        is_right=kind.is_right(slots, answer),
        in_form=speaks_so and kind.in_form(slots, answer),
        is_brief=0 < len(spoken) <= shortest + spare,
        refuses=_refuses(spoken),
    )


def is_accepted(messages: Messages, answer: str) -> bool:
    """Whether the answer is right, in the requested form, and brief."""
    return examine(messages, answer).passes


def _expect_question(messages: Messages) -> ParsedQuestion:
    question = parse_question(messages)
    if question is None:
        raise ValueError(f"this is no question of the closed world: {messages[-1:]!r}")
    return question


def _has_form(question: ParsedQuestion) -> bool:
    return question.by_pirate or question.kind.careless is not None


def _ideal(question: ParsedQuestion, rng: Random) -> str:
    plain = question.kind.ideal(question.slots, rng)
    return _as_pirate(plain) if question.by_pirate else plain


def _as_pirate(sentence: str) -> str:
    """The sentence in a pirate's mouth."""
    spoken = sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]
    return f"Arr, {spoken.removesuffix('.')}, matey!"


def _with_fault(question: ParsedQuestion, fault: AnswerFault, rng: Random) -> str:
    kind, slots, by_pirate = question
    if fault == "refusal":
        return rng.choice(_REFUSALS)
    if fault == "rambling":
        return rng.choice(_RAMBLES).format(_ideal(question, rng))
    if fault == "wrong":
        answer = kind.wrong(slots, rng)
        return _as_pirate(answer) if by_pirate else answer
    return kind.ideal(slots, rng) if by_pirate or kind.careless is None else kind.careless(slots, rng)


def _refuses(spoken: list[str]) -> bool:
    said = f" {' '.join(spoken)} "
    return any(phrase in said for phrase in (" cannot ", " sorry ", " not know "))
