"""New instructions from a few: a teacher continues lists of known ones, and what is new and sound joins the pool.

Self-Instruct, arXiv 2212.10560. What becomes of the instructions is told in `instances`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from zephyr.records.messages import Message, Messages
from zephyr.synth.novelty import NoveltyIndex
from zephyr.synth.wording import template, until_stop
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

FEWEST_WORDS, MOST_WORDS = 4, 150
# What a model that reads and writes text cannot look at or do.
UNSUITABLE = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to",
)  # fmt: skip
MAX_SIMILARITY = 0.7

_UNSUITABLE = re.compile(rf"\b(?:{'|'.join(UNSUITABLE)})\b", re.IGNORECASE)
# A blank line, and the number after the last one asked for; "2016." is no such number.
_STOPS = re.compile(r"\n[^\S\n]*\n|\n16|(?<!\w)16 ?\.(?!\w)")
_NUMBER = re.compile(r"(?:^|\n)\s*\d+\s?\.\s+")
_SPACE = re.compile(r"\s+")
FAULTS: dict[str, Callable[[str], object]] = {
    "too short": lambda instruction: len(instruction.split()) < FEWEST_WORDS,
    "too long": lambda instruction: len(instruction.split()) > MOST_WORDS,
    "not about text": _UNSUITABLE.search,
    "asks for a program": lambda instruction: instruction.startswith("Write a program"),
    "begins with punctuation": lambda instruction: instruction[0] in string.punctuation,
    "begins with a character outside of ASCII": lambda instruction: not instruction[0].isascii(),
}


@dataclass(frozen=True)
class GrowthSettings:
    """How the pool grows. The numbers are Self-Instruct's."""

    num_instructions: int
    seed: int = 0
    classification_only: bool = False
    max_similarity: float = MAX_SIMILARITY
    requests_per_round: int = 5
    num_in_context: int = 8
    num_machine_in_context: int = 2
    temperature: float = 0.7
    top_p: float = 0.5
    max_tokens: int = 1024
    patience_rounds: int = 20  # without a new instruction, after which no more is to be hoped for


class Neighbour(NamedTuple):
    """An instruction of the pool and its ROUGE-L F with a new one."""

    instruction: str
    score: float


class NewInstruction(NamedTuple):
    """An instruction that joined the pool, with the most similar ones at that time and the mean similarity to all."""

    instruction: str
    most_similar: tuple[Neighbour, ...]
    mean_similarity: float


class Round(NamedTuple):
    """What came out of the requests of one round."""

    number: int
    kept: tuple[NewInstruction, ...]
    counts: Counter[str]


class InstructionPool:
    """Seed and machine instructions, and which new ones are novel beside them."""

    def __init__(self, seeds: Sequence[str], settings: GrowthSettings) -> None:
        if len(seeds) < settings.num_in_context:
            raise ValueError(f"a list is begun with {settings.num_in_context} seeds, got {len(seeds)}")
        self.machine: list[str] = []
        self._seeds = tuple(seeds)
        self._settings = settings
        self._index = NoveltyIndex(seeds)

    def grow(self, teacher: Teacher, done: Sequence[Round] = ()) -> Iterator[Round]:
        """Rounds, after those `done` before, until there are enough instructions or patience has ended.

        What a round asks depends on the settings and the rounds before it alone.
        """
        for earlier in done:
            for new in earlier.kept:
                self._add(new.instruction)
        number = done[-1].number + 1 if done else 0
        fruitless = _fruitless(done)
        while len(self.machine) < self._settings.num_instructions and fruitless < self._settings.patience_rounds:
            one = self._round(number, teacher)
            number += 1
            fruitless = 0 if one.kept else fruitless + 1
            yield one

    def try_to_add(self, instruction: str) -> NewInstruction | None:
        """The instruction with its neighbours, after it has joined the pool; None where it is too similar to one."""
        found = self._index.compare(instruction)
        if found.highest > self._settings.max_similarity:
            return None
        nearest = tuple(Neighbour(self._text(similar.number), similar.score) for similar in found.nearest)
        self._add(instruction)
        return NewInstruction(instruction, nearest, found.mean)

    def _round(self, number: int, teacher: Teacher) -> Round:
        settings = self._settings
        requests = [self._request(number, index) for index in range(settings.requests_per_round)]
        counts = Counter[str]()
        kept: list[NewInstruction] = []
        for _, reply in paired(teacher, requests):
            counts["instructions: lists asked for"] += 1
            for instruction in read_list(reply, settings.num_in_context + 1, counts):
                is_full = len(self.machine) >= settings.num_instructions
                fault = "more than asked for" if is_full else instruction_fault(instruction)
                new = None if fault else self.try_to_add(instruction)
                if new is not None:
                    kept.append(new)
                counts[f"instructions: {'kept' if new else fault or 'too similar'}"] += 1
        return Round(number, tuple(kept), counts)

    def _request(self, number: int, index: int) -> ChatRequest:
        settings = self._settings
        rng = Random(f"{settings.seed} instructions {number} {index}")
        machine = rng.sample(self.machine, min(settings.num_machine_in_context, len(self.machine)))
        chosen = machine + rng.sample(self._seeds, settings.num_in_context - len(machine))
        rng.shuffle(chosen)
        return ChatRequest(
            key=f"instructions {number} {index}",
            messages=ask_for_instructions(chosen, classification_only=settings.classification_only),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            max_tokens=settings.max_tokens,
            seed=seed_for(settings.seed, "instructions", number, index),
        )

    def _add(self, instruction: str) -> None:
        self.machine.append(instruction)
        self._index.add(instruction)

    def _text(self, number: int) -> str:
        return self._seeds[number] if number < len(self._seeds) else self.machine[number - len(self._seeds)]


def ask_for_instructions(known: Sequence[str], *, classification_only: bool = False) -> Messages:
    """The request to continue the list of known instructions, numbered from 1, the next number left open."""
    lines = (f"{number}. {_collapsed(text).rstrip(':')}" for number, text in enumerate(known, start=1))
    wording = template("instructions_classification" if classification_only else "instructions")
    return (Message("user", wording.substitute(tasks="\n".join(lines), open=str(len(known) + 1))),)


def read_list(reply: ChatReply, first: int, counts: Counter[str]) -> list[str]:
    """The instructions of a reply that continues a list at number `first`, spaces collapsed and capitalised.

    A reply that was cut off is discarded whole, and counted, as is one that failed.
    """
    reply = until_stop(reply, _STOPS)
    if reply.finish_reason != "stop":
        counts["failed: teacher error" if reply.finish_reason == "error" else "failed: cut off"] += 1
        return []
    if not reply.text:
        counts["failed: empty answer"] += 1
        return []
    # Chat models like to announce a list, and to write its first number again.
    repeated = re.search(rf"(?:^|\n)\s*{first}\s?\.\s", reply.text)
    text = reply.text[repeated.start() :] if repeated else reply.text
    pieces = (_collapsed(piece).capitalize() for piece in _NUMBER.split(text))
    return [piece for piece in pieces if piece]


def instruction_fault(instruction: str) -> str | None:
    """Why an instruction is not usable, or None. The heuristics of Self-Instruct."""
    return next((reason for reason, is_so in FAULTS.items() if is_so(instruction)), None)


def _fruitless(done: Sequence[Round]) -> int:
    """How many of the last rounds brought nothing."""
    count = 0
    for one in reversed(done):
        if one.kept:
            break
        count += 1
    return count


def _collapsed(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
