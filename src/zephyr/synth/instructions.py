"""New instructions from a few: a teacher continues lists of known ones; what is novel and usable joins the pool.

Self-Instruct, arXiv 2212.10560. `instances` makes tasks of the instructions.
"""

import re
import string
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, Messages
from zephyr.synth.dialogues import sampled_request, template, until_stop
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

# The numbers of Self-Instruct.
IN_CONTEXT, MACHINE_IN_CONTEXT = 8, 2
SAMPLING = SamplingSection(temperature=0.7, top_p=0.5, top_k=0, max_new_tokens=1024)
PATIENCE_ROUNDS = 20
_MIN_WORDS, _MAX_WORDS = 4, 150
# Neighbours that are listed with a new instruction.
_LISTED = 10
# What a model that reads and writes text cannot look at or do.
UNSUITABLE = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to",
)  # fmt: skip

_UNSUITABLE = re.compile(rf"\b(?:{'|'.join(UNSUITABLE)})\b", re.IGNORECASE)
# The number after the last one asked for; "2016." is no such number.
_STOPS = re.compile(r"\n16|(?<!\w)16 ?[.)](?!\w)")
# 9. or 9) or (9) or Task 9: at the beginning of a line, as chat models number their lists.
_NUMBER = re.compile(
    r"^[^\S\n]*(?:[-*\u2022][^\S\n]+)?(?:Task |#|\()?(\d{1,2})\s?[.):]+\s+", re.MULTILINE | re.IGNORECASE
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_MARKUP = re.compile(r"\*\*|^[^\S\n]*#{1,6}[^\S\n]+(?=\D)|^[^\S\n]*#{1,6}[^\S\n]+|\\(?=[.)])", re.MULTILINE)
_ANNOUNCEMENT = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|here (?:are|is|you go))\b", re.IGNORECASE
)
_QUOTED = re.compile(r"([\"'\u201c])(.*)[\"'\u201d]")
_SPACE = re.compile(r"\s+")
_NOT_WORDS = re.compile(r"[^a-z0-9]+")
FAULTS: dict[str, Callable[[str], object]] = {
    "too short": lambda instruction: len(instruction.split()) < _MIN_WORDS,
    "too long": lambda instruction: len(instruction.split()) > _MAX_WORDS,
    "not about text": _UNSUITABLE.search,
    "asks for a program": lambda instruction: instruction.startswith("Write a program"),
    "begins with punctuation": lambda instruction: instruction[0] in string.punctuation,
    "begins with a character outside of ASCII": lambda instruction: not instruction[0].isascii(),
}


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


class NoveltyIndex:
    """A growing pool of texts, and how similar a new text is to each of them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._codes: dict[str, str] = {}
        self._pool: list[str] = []
        self._lengths = array("q")
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Put a text into the pool."""
        # A word is one character: rapidfuzz is fastest on strings. No word of the pool is the character 0.
        words = "".join(self._codes.setdefault(word, chr(len(self._codes) + 1)) for word in rouge_words(text))
        self._pool.append(words)
        self._lengths.append(len(words))

    def similarities(self, text: str) -> NDArray[np.float64]:
        """The ROUGE-L F of `text` with every text of the pool (n,), in the order of adding.

        F is 2 LCS / (m + n) for m and n words, rounded once, so that 0.7 is exactly 0.7. ROUGE-L: Lin, 2004
        """
        if not self._pool:
            return np.zeros(0)
        words = "".join(self._codes.get(word, "\0") for word in rouge_words(text))
        common = process.cdist([words], self._pool, scorer=LCSseq.similarity, dtype=np.int32)[0]
        # Two texts without a word have nothing in common, and nothing to divide by.
        scores: NDArray[np.float64] = 2 * common / np.maximum(np.array(self._lengths) + len(words), 1)
        return scores


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE counts: runs of letters a-z and digits in lower case, without stemming.

    The tokenizer of the rouge-score package.
    """
    return _NOT_WORDS.sub(" ", text.lower()).split()


class InstructionPool:
    """Seed and machine instructions, and which new ones are novel beside them. Raises ValueError for too few seeds.

    It is patient for `patience_rounds` rounds without a new instruction, after which no more can be expected.
    """

    def __init__(
        self, seeds: Sequence[str], section: SelfInstructSynth, *, seed: int, patience_rounds: int = PATIENCE_ROUNDS
    ) -> None:
        if len(seeds) < IN_CONTEXT:
            raise ValueError(f"a list is begun with {IN_CONTEXT} seeds, got {len(seeds)}")
        self.machine: list[str] = []
        self._seeds = tuple(seeds)
        self._section = section
        self._seed = seed
        self._patience_rounds = patience_rounds
        self._index = NoveltyIndex(seeds)

    def grow(self, teacher: Teacher, done: Sequence[Round] = ()) -> Iterator[Round]:
        """Rounds, after those `done` before, until there are enough instructions or patience has ended.

        What a round requests depends on the section, the seed and the rounds before it alone.
        """
        for earlier in done:
            for new in earlier.kept:
                self._add(new.instruction)
        number = done[-1].number + 1 if done else 0
        fruitless = _fruitless(done)
        while len(self.machine) < self._section.num_instructions and fruitless < self._patience_rounds:
            one = self._round(number, teacher)
            number += 1
            fruitless = 0 if one.kept else fruitless + 1
            yield one

    def try_to_add(self, instruction: str) -> NewInstruction | None:
        """The instruction with its neighbours, after it has joined the pool; None where it is too similar to one."""
        scores = self._index.similarities(instruction)
        if scores.max() > self._section.max_similarity:
            return None
        nearest = np.argsort(-scores, kind="stable")[:_LISTED]
        known = (*self._seeds, *self.machine)
        neighbours = tuple(Neighbour(known[number], float(scores[number])) for number in nearest)
        self._add(instruction)
        return NewInstruction(instruction, neighbours, float(scores.mean()))

    def _round(self, number: int, teacher: Teacher) -> Round:
        requests = [self._request(number, index) for index in range(self._section.requests_per_round)]
        counts = Counter[str]()
        kept: list[NewInstruction] = []
        for _, reply in paired(teacher, requests):
            counts["instructions: lists asked for"] += 1
            for instruction in read_list(reply, IN_CONTEXT + 1, counts):
                is_full = len(self.machine) >= self._section.num_instructions
                fault = "more than asked for" if is_full else instruction_fault(instruction)
                new = None if fault else self.try_to_add(instruction)
                if new is not None:
                    kept.append(new)
                counts[f"instructions: {'kept' if new else fault or 'too similar'}"] += 1
        return Round(number, tuple(kept), counts)

    def _request(self, number: int, index: int) -> ChatRequest:
        rng = Random(f"{self._seed} instructions {number} {index}")
        machine = rng.sample(self.machine, min(MACHINE_IN_CONTEXT, len(self.machine)))
        chosen = machine + rng.sample(self._seeds, IN_CONTEXT - len(machine))
        rng.shuffle(chosen)
        return sampled_request(
            f"instructions {number} {index}",
            ask_for_instructions(chosen, classification_only=self._section.classification_only),
            SAMPLING,
            seed=seed_for(self._seed, "instructions", number, index),
        )

    def _add(self, instruction: str) -> None:
        self.machine.append(instruction)
        self._index.add(instruction)


def ask_for_instructions(known: Sequence[str], *, classification_only: bool = False) -> Messages:
    """The request to continue the list of known instructions, numbered from 1, the next number left open."""
    lines = (f"{number}. {_collapsed(text).rstrip(':')}" for number, text in enumerate(known, start=1))
    wording = template("instructions_classification" if classification_only else "instructions")
    return (Message("user", wording.substitute(tasks="\n".join(lines), open=str(len(known) + 1))),)


def read_list(reply: ChatReply, first: int, counts: Counter[str]) -> list[str]:
    """The instructions of a reply that continues a list at number `first`, on one line each, with a capital.

    What chat models write around a list, its announcement and what follows it, is none of them. A reply that was cut
    off is discarded whole, and counted, as is one that failed.
    """
    reply = until_stop(reply._replace(text=_MARKUP.sub("", reply.text)), _STOPS)
    pieces = _pieces(reply.text, first)
    # What follows a blank line ends the list, as a stop does.
    is_whole = reply.finish_reason == "stop" or bool(pieces and _BLANK_LINE.search(pieces[-1].strip()))
    if reply.finish_reason == "error" or not is_whole:
        counts["failed: teacher error" if reply.finish_reason == "error" else "failed: cut off"] += 1
        return []
    if not reply.text:
        counts["failed: empty answer"] += 1
        return []
    found = (_instruction(_BLANK_LINE.split(piece.strip())[0]) for piece in pieces)
    return [instruction for instruction in found if instruction]


def _pieces(text: str, first: int) -> list[str]:
    """What stands behind each number of a list, and before the second number where the first one was left open."""
    numbers = list(_NUMBER.finditer(text))
    ends = [*(number.start() for number in numbers[1:]), len(text)]
    pieces = [text[number.end() : end] for number, end in zip(numbers, ends, strict=False)]
    if numbers and int(numbers[0][1]) != first + 1:
        return pieces
    return [_without_announcement(text[: numbers[0].start()] if numbers else text), *pieces]


def _without_announcement(head: str) -> str:
    """The instruction that stands before the second number of a list, without the words that announce the list."""
    lines = head.strip().split("\n")
    while lines and (not lines[0].strip() or lines[0].rstrip().endswith(":") or _ANNOUNCEMENT.match(lines[0].strip())):
        del lines[0]
    return "\n".join(lines)


def _instruction(piece: str) -> str:
    text = _collapsed(piece)
    quoted = _QUOTED.fullmatch(text)
    text = quoted[2].strip() if quoted and quoted[1] not in quoted[2] else text
    return text[:1].upper() + text[1:]


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
