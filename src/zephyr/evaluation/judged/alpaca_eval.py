"""AlpacaEval 1 and 2: a model's answers to 805 instructions against those of a baseline, compared by a judge.

The files it is distributed in, annotations of others among them, are read in `alpaca_eval_files`. Source: AlpacaEval,
github.com/tatsu-lab/alpaca_eval.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zephyr.errors import DataError
from zephyr.evaluation.judged.alpaca_eval_files import (
    BASELINES,
    Instruction,
    Version,
    find_baseline,
    read_instructions,
    read_outputs,
)
from zephyr.evaluation.judged.bench import (
    NO_ANSWER,
    CallBatches,
    Contestant,
    JudgedBench,
    check_answers_match,
    file_hash,
    refuse_scripted,
    replies_to,
    thinking_note,
    why_no_answer,
)
from zephyr.evaluation.judged.games import (
    Orders,
    Played,
    arena_scores,
    in_percent,
    judge_notes,
    missing_causes,
    play,
    write_verdicts,
)
from zephyr.evaluation.judged.length_controlled import (
    JudgedRows,
    LengthControlled,
    length_controlled,
    length_terms,
    read_difficulty,
    read_gamed,
)
from zephyr.evaluation.judged.pairs import Match, OwnPairs, PairWording, RankedPairs, WeightedPairs
from zephyr.evaluation.judged.score import SHARE_SCALE, JudgedScore, Judgment, judged_score
from zephyr.evaluation.results import Item, Result, write_result
from zephyr.intervals import ROUNDED_NORMAL_95
from zephyr.judging.published_prompts import read_turns_prompt
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import Json, brief
from zephyr.records.messages import Message
from zephyr.records.writing import write_jsonl
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatRequest, Teacher

# How the Zephyr models answered; top_k is generate's default of that time.
ALPACA_EVAL_SAMPLING = SamplingSection(temperature=0.7, top_k=50, top_p=1.0, max_new_tokens=2048)


class InstructionAnswers(NamedTuple):
    """Answers by instruction, None or none at all where one is missing, and why that is; notes for the result."""

    texts: Mapping[str, str | None]
    reasons: Mapping[str, str]
    notes: tuple[str, ...] = ()


class AlpacaEvalScores(NamedTuple):
    """In percent. `as_published` takes the one game that AlpacaEval would play, `both_orders` the mean of two."""

    as_published: JudgedScore
    both_orders: JudgedScore
    subsets: dict[str, JudgedScore]
    length_controlled: LengthControlled | None


def answer_instructions(
    model: Teacher,
    instructions: Sequence[Instruction],
    sampling: SamplingSection,
    batches: CallBatches,
    *,
    seed: int = 0,
) -> InstructionAnswers:
    """The model's answers by instruction, None where one failed."""
    requests = [
        ChatRequest(
            key=str(number),
            messages=(Message("user", one.text),),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
        )
        for number, one in enumerate(instructions)
    ]
    replies = replies_to(model, requests, batches)
    reasons = {one.text: why_no_answer(replies[str(number)]) for number, one in enumerate(instructions)}
    texts = {
        one.text: None if reasons[one.text] else replies[str(number)].text for number, one in enumerate(instructions)
    }
    notes = thinking_note("model", [reply.reasoning for reply in replies.values()])
    return InstructionAnswers(texts, reasons, notes)


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
    played: Sequence[Played], *, difficulty: Sequence[float] | None, gamed: JudgedRows | None = None, seed: int = 0
) -> AlpacaEvalScores:
    """The model's scores. Without `difficulty` of all instructions the length-controlled rate has no such term."""
    shares = [_published_share(one) for one in played]
    judgments = [Judgment(one.match.prompt, share) for one, share in zip(played, shares, strict=True)]
    subsets = dict.fromkeys(one.match.category for one in played)
    return AlpacaEvalScores(
        as_published=judged_score(judgments, seed=seed, scale=100, within=SHARE_SCALE),
        both_orders=judged_score(
            [Judgment(one.match.prompt, model_share(one)) for one in played], seed=seed, scale=100, within=SHARE_SCALE
        ),
        subsets={
            name: judged_score(
                [judgment for judgment, one in zip(judgments, played, strict=True) if one.match.category == name],
                seed=seed,
                scale=100,
                within=SHARE_SCALE,
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
    gamed: JudgedRows | None,
) -> LengthControlled | None:
    """The length-controlled win rate; None where too few judgments are there to fit it."""
    known = np.zeros(len(played)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    lengths = [[len(answers[0] or "") for answers in (one.match.first, one.match.second)] for one in played]
    terms = length_terms([pair[0] for pair in lengths], [pair[1] for pair in lengths])
    there = np.array([share is not None for share in shares], dtype=bool)
    preferred = np.array([share for share in shares if share is not None], dtype=np.float64)
    if len(preferred) < 2 * len(JudgedRows._fields):
        return None
    rows = JudgedRows(preferred, terms[there], known[there])
    return length_controlled(rows, all_difficulty=known, gamed=gamed)


def _published_share(one: Played) -> float | None:
    """The model's share in the game that AlpacaEval would have played."""
    game = one.given if published_order(one.match.turns[0]) == "given" else one.swapped
    return None if game is None or game.share is None else 1 - game.share


# ---- a run ----


def run_alpaca_eval(
    bench: JudgedBench,
    version: Version,
    *,
    sampling: SamplingSection = ALPACA_EVAL_SAMPLING,
    judge_prompt: Path | None = None,
    difficulty: Path | None = None,
    gamed: Path | None = None,
    swap: bool = True,
) -> Result:
    """The result of the first contestant; the run's folder holds answers, verdicts, values and scores.

    `judge_prompt`: AlpacaEval's prompt, None: our own wording; `difficulty`, `gamed`: its files for length control.
    Raises DataError for files that are not there or do not fit, and for the scripted judge with a published prompt.
    """
    assert bench.data is not None
    baseline = find_baseline(bench.data, version)
    all_instructions = read_instructions(baseline)
    instructions = all_instructions[: bench.limit]
    wording = _wording(bench, version, judge_prompt)
    difficulties = None if difficulty is None else _difficulties(difficulty, all_instructions)[: bench.limit]
    gamed_rows = None if gamed is None else read_gamed(gamed)
    contestant = bench.contestants[0]
    with bench.ledgers() as ledgers:
        answers, model_hash = _answers(contestant, instructions, sampling, bench, ledgers.answers, all_instructions)
        outputs = answers.texts.items()
        rows = ({"instruction": text, "output": output, "generator": contestant.name} for text, output in outputs)
        write_jsonl(bench.out / "answers.jsonl", rows, replace=True)
        judge = bench.open_judge(ledgers.judge)
        matches = matches_of(instructions, answers)
        orders: dict[str, Orders] = {one.key: "both" if swap else published_order(one.turns[0]) for one in matches}
        with judge.batches("judge", len(matches) * (1 + swap)) as batches:
            played = play(matches, judge.teacher, wording, batches, orders=orders)
    write_verdicts(bench.out, played)
    protocol: dict[str, Json] = {
        "questions": len(instructions),
        "questions_hash": file_hash(baseline),
        "opponent": BASELINES[version].removesuffix("_outputs.json"),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens,
        "seed": bench.seed,
        "model_hash": model_hash,
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "judge_temperature": wording.temperature,
        "orders": "both" if swap else "as published",
        "instruction_difficulty": "none" if difficulty is None else file_hash(difficulty),
        "gamed_baselines": "none" if gamed is None else file_hash(gamed),
    }
    scores = _score_fields(
        alpaca_eval_scores(played, difficulty=difficulties, gamed=gamed_rows, seed=bench.seed), played
    )
    scores |= {"notes": [*answers.notes, *judge_notes(played)]}
    name = f"alpaca_eval_{version}"
    items = [
        Item(name, one.match.key, one.match.prompt, one.match.category, in_percent(model_share(one))) for one in played
    ]
    result = Result(name, contestant.name, protocol, scores, items)
    write_result(bench.out, result)
    return result


def _score_fields(scores: AlpacaEvalScores, played: Sequence[Played]) -> dict[str, Json]:
    """All scores by the names they have in results."""
    named = {"as_published": scores.as_published, "both_orders": scores.both_orders}
    controlled = scores.length_controlled
    if controlled is not None:
        named["length_controlled"] = _with_interval(scores.as_published, controlled)
    fields: dict[str, Json] = {name: dict(score.fields()) for name, score in (named | scores.subsets).items()}
    arena = arena_scores(played)
    fields |= {"swap_consistency": arena.swap_consistency, "shown_first": arena.shown_first}
    fields |= {"missing_causes": dict(missing_causes(played))}
    fields |= {"empty_answers": sum(one.match.second == ("",) for one in played)}
    if controlled is not None:
        fields["length_controlled_weights"] = dict(controlled.weights._asdict())
    return fields


def _with_interval(published: JudgedScore, controlled: LengthControlled) -> JudgedScore:
    """The length-controlled rate with its interval, None where all predicted shares are equal and tell no error."""
    rate, error = controlled.win_rate, controlled.standard_error
    if not error:
        return published._replace(score=rate, standard_error=None, low=None, high=None)
    low, high = max(0.0, rate - ROUNDED_NORMAL_95 * error), min(100.0, rate + ROUNDED_NORMAL_95 * error)
    return published._replace(score=rate, standard_error=error, low=low, high=high)


def _wording(bench: JudgedBench, version: Version, judge_prompt: Path | None) -> PairWording:
    if judge_prompt is None:
        return OwnPairs(bench.seed)
    refuse_scripted(bench.judge, "--judge-prompt")
    prompt = read_turns_prompt(judge_prompt)
    return RankedPairs(prompt, prompt.version) if version == "1" else WeightedPairs(prompt, prompt.version)


def _difficulties(path: Path, instructions: Sequence[Instruction]) -> list[float]:
    """The difficulty of every instruction. Raises DataError for those of other instructions than these."""
    texts, difficulty = read_difficulty(path)
    if texts:
        by_text = dict(zip(texts, difficulty, strict=True))
        missing = next((one.text for one in instructions if one.text not in by_text), None)
        if missing is not None:
            what = f"has no difficulty of the instruction {brief(missing)}"
            raise DataError(path.name, what, "name the difficulties of the same instructions as the baseline's")
        return [by_text[one.text] for one in instructions]
    if len(difficulty) != len(instructions):
        what = f"has the difficulty of {len(difficulty)} instructions, and there are {len(instructions)}"
        raise DataError(path.name, what, "name AlpacaEval's instruction_difficulty.csv, whose rows are the baseline's")
    return difficulty


def _answers_of_file(
    file: Path, instructions: Sequence[Instruction], all_instructions: Sequence[Instruction]
) -> InstructionAnswers:
    """The answers in a file. Raises DataError where none is about an instruction of the benchmark."""
    outputs = read_outputs(file)
    notes = check_answers_match(file, list(outputs), {one.text for one in all_instructions}, "instructions")
    given = {one.text: outputs[one.text] for one in instructions if one.text in outputs}
    thought = thinking_note("model", [one.reasoning if one else "" for one in given.values()])
    return InstructionAnswers(
        {text: None if one is None else one.answer for text, one in given.items()},
        {text: f"{NO_ANSWER}: it is null" for text, one in given.items() if one is None},
        (*notes, *thought),
    )


def _answers(
    contestant: Contestant,
    instructions: Sequence[Instruction],
    sampling: SamplingSection,
    bench: JudgedBench,
    ledger: Ledger,
    all_instructions: Sequence[Instruction],
) -> tuple[InstructionAnswers, str]:
    """A contestant's answers, generated or from its file, and a hash of whose they are."""
    name, source = contestant
    if isinstance(source, Path):
        return _answers_of_file(source, instructions, all_instructions), file_hash(source)
    model = bench.open(source, "writes", ledger, where=name)
    with model.batches(f"answers of {model.teacher.name}", len(instructions)) as batches:
        answers = answer_instructions(model.teacher, instructions, sampling, batches, seed=bench.seed)
    return answers, model.identity
