"""AlpacaEval 1 and 2: a model's answers to 805 instructions against those of a baseline, compared by a judge.

Judged here are instructions that have no annotations yet; win rates of existing ones are in
`alpaca_eval_annotations`. Source: AlpacaEval, github.com/tatsu-lab/alpaca_eval.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from zephyr.errors import DataError
from zephyr.evaluate.judged.arena import Match, Orders, Played
from zephyr.evaluate.judged.calls import Calling, replies_to, why_no_answer
from zephyr.evaluate.judged.length_controlled import LengthControlled, Rows, length_controlled, length_terms
from zephyr.evaluate.judged.score import JudgedScore, Judgment, judged_score
from zephyr.records.messages import Message
from zephyr.records.reading import read_rows
from zephyr.teachers.protocol import ChatRequest, Teacher

Version = Literal["1", "2"]
# The file of the baseline's answers, which hold the instructions too, as AlpacaEval distributes them.
BASELINES: Mapping[Version, str] = {"1": "text_davinci_003_outputs.json", "2": "gpt4_1106_preview_outputs.json"}
_SOURCE = "the data set tatsu-lab/alpaca_eval on the hub"


class Instruction(NamedTuple):
    """One instruction with the baseline's answer; `subset` is the collection that it comes from."""

    text: str
    baseline: str
    subset: str


class InstructionAnswers(NamedTuple):
    """Answers by instruction, None or none at all where one is missing, and why that is."""

    texts: Mapping[str, str | None]
    reasons: Mapping[str, str]


class AnswerSettings(NamedTuple):
    """How the Zephyr models answered; `top_k` is generate's default of that time."""

    max_tokens: int = 2048
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 50
    seed: int = 0


class AlpacaEvalScores(NamedTuple):
    """In percent. `as_published` takes the one game that AlpacaEval would play, `both_orders` the mean of two."""

    as_published: JudgedScore
    both_orders: JudgedScore
    subsets: dict[str, JudgedScore]
    length_controlled: LengthControlled | None


def read_instructions(path: Path) -> list[Instruction]:
    """The instructions in a file of a baseline's outputs. Raises DataError."""
    found = []
    for row in read_rows(path):
        text, output, subset = (row.fields.get(name) for name in ("instruction", "output", "dataset"))
        if not isinstance(text, str) or not isinstance(output, str):
            raise DataError(row.name, "has no instruction or output", f"use a file of {_SOURCE}")
        found.append(Instruction(text, output, subset if isinstance(subset, str) else ""))
    if len({one.text for one in found}) < len(found):
        raise DataError(path.name, "has an instruction twice", "name a file with one output for every instruction")
    return found


def find_baseline(folder: Path, version: Version) -> Path:
    """The file of that version's baseline in a folder or its part `alpaca_eval`; DataError if it is not there."""
    name = BASELINES[version]
    for place in (folder, folder / "alpaca_eval"):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(str(folder), f"there is no {name} of AlpacaEval", f"get it from {_SOURCE}, name it by --data")


def read_outputs(path: Path) -> dict[str, str]:
    """A model's outputs by instruction, from a file in AlpacaEval's form."""
    return {one.text: one.baseline for one in read_instructions(path)}


def answer_instructions(
    model: Teacher, instructions: Sequence[Instruction], settings: AnswerSettings, calling: Calling
) -> InstructionAnswers:
    """The model's answers by instruction, None where one failed."""
    requests = [
        ChatRequest(
            key=str(number),
            messages=(Message("user", one.text),),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
        for number, one in enumerate(instructions)
    ]
    replies = replies_to(model, requests, calling)
    reasons = {one.text: why_no_answer(replies[str(number)]) for number, one in enumerate(instructions)}
    texts = {
        one.text: None if reasons[one.text] else replies[str(number)].text for number, one in enumerate(instructions)
    }
    return InstructionAnswers(texts, reasons)


def matches_of(instructions: Sequence[Instruction], answers: InstructionAnswers) -> list[Match]:
    """The baseline's answers against the model's, in this order."""
    return [
        Match(
            key=str(number),
            prompt=str(number),
            category=one.subset,
            turns=(one.text,),
            first=(one.baseline,),
            second=(answers.texts.get(one.text),),
            reason=answers.reasons.get(one.text, ""),
        )
        for number, one in enumerate(instructions)
    ]


def published_order(instruction: str, *, seed: int = 0) -> Orders:
    """The order in which AlpacaEval shows the outputs: swapped for half of the instructions, the same ones always.

    Source: AlpacaEval, alpaca_eval/processors.py, RandomSwitchTwoColumnsProcessor.
    """
    drawn = random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]
    return "swapped" if drawn else "given"


def alpaca_eval_scores(
    played: Sequence[Played], *, difficulty: Sequence[float] | None, gamed: Rows | None = None, seed: int = 0
) -> AlpacaEvalScores:
    """The model's scores. Without `difficulty` of all instructions the length-controlled rate has no such term."""
    shares = [_published_share(one) for one in played]
    judgments = [Judgment(one.match.prompt, share) for one, share in zip(played, shares, strict=True)]
    subsets = dict.fromkeys(one.match.category for one in played)
    return AlpacaEvalScores(
        as_published=judged_score(judgments, seed=seed, scale=100),
        both_orders=judged_score(
            [Judgment(one.match.prompt, model_share(one)) for one in played], seed=seed, scale=100
        ),
        subsets={
            name: judged_score(
                [judgment for judgment, one in zip(judgments, played, strict=True) if one.match.category == name],
                seed=seed,
                scale=100,
            )
            for name in subsets
        },
        length_controlled=_length_controlled(played, shares, difficulty, gamed),
    )


def model_share(one: Played) -> float | None:
    """The model's share of all games that were played, None if one is missing; the baseline is shown as A."""
    shares = [game.share for game in one.games if game.share is not None]
    return 1 - sum(shares) / len(shares) if shares and len(shares) == len(one.games) else None


def _length_controlled(
    played: Sequence[Played],
    shares: Sequence[float | None],
    difficulty: Sequence[float] | None,
    gamed: Rows | None,
) -> LengthControlled | None:
    """The length-controlled win rate; None where too few judgments are there to fit it."""
    known = np.zeros(len(played)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    lengths = [[len(answers[0] or "") for answers in (one.match.first, one.match.second)] for one in played]
    terms = length_terms([pair[0] for pair in lengths], [pair[1] for pair in lengths])
    there = np.array([share is not None for share in shares], dtype=bool)
    preferred = np.array([share for share in shares if share is not None], dtype=np.float64)
    if len(preferred) < 2 * len(Rows._fields):
        return None
    rows = Rows(preferred, terms[there], known[there])
    return length_controlled(rows, all_difficulty=known, gamed=gamed)


def _published_share(one: Played) -> float | None:
    """The model's share in the game that AlpacaEval would have played."""
    game = one.given if published_order(one.match.turns[0]) == "given" else one.swapped
    return None if game is None or game.share is None else 1 - game.share
