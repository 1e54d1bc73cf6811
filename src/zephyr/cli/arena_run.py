"""Runs of `zephyr arena`: two models on the same prompts or on MT-Bench, compared by a judge in both orders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.cli.files import open_rows
from zephyr.errors import DataError
from zephyr.evaluate.judged.alpaca_eval import read_outputs
from zephyr.evaluate.judged.arena import ArenaScores, Match, Orders, arena_scores, missing_causes, play
from zephyr.evaluate.judged.arena_wording import PUBLISHED_PAIR, OwnPairs, PairWording, PublishedPairs
from zephyr.evaluate.judged.calls import replies_to, why_no_answer
from zephyr.evaluate.judged.mt_bench import MtBenchSettings
from zephyr.evaluate.judged.score import JudgedScore
from zephyr.evaluate.results import Item, Result, write_result
from zephyr.judging.published_prompts import read_judge_prompts
from zephyr.pipeline.judged_run import (
    JudgedRun,
    answers_file,
    file_hash,
    open_ledgered,
    refuse_scripted,
    teacher_form,
    watched,
    write_verdicts,
)
from zephyr.pipeline.mt_bench_run import MtBenchInputs, bench_answers, bench_protocol
from zephyr.records.fields import Json
from zephyr.records.rows import Prompt, prompt_id
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatRequest

NAME = "arena"


@dataclass(frozen=True)
class ArenaRun:
    """What `zephyr arena` is told; the prompts are a file of rows, or MT-Bench's folder."""

    models: tuple[str, str]
    shared: JudgedRun
    settings: MtBenchSettings
    temperature: float
    prompts: str | None = None
    mt_bench: Path | None = None
    judge_prompts: Path | None = None  # None: our own wording
    swap: bool = True


@dataclass(frozen=True)
class Contest:
    """Matches, and what their answers depend on."""

    matches: Sequence[Match]
    protocol: Mapping[str, Json]


def run_arena(run: ArenaRun) -> tuple[Result, ArenaScores]:
    """The finished run of A against B; its folder holds answers, verdicts, values and scores."""
    shared = run.shared
    if run.judge_prompts is not None:
        refuse_scripted(shared.judge, "--judge-prompts")
    wording = pair_wording(run.judge_prompts, seed=run.settings.seed)
    if (run.prompts is None) == (run.mt_bench is None):
        raise DataError("zephyr arena", "needs prompts, from one place", "name --prompts FILE or --mt-bench DIR")
    with shared.ledgers(*run.models) as ledgers:
        contest = _on_mt_bench(run, ledgers.answers) if run.mt_bench else _on_prompts(run, ledgers.answers)
        judge = open_ledgered(shared.judge, "rates", shared.teachers, ledgers.judge)
        with watched("judge", len(contest.matches) * (1 + run.swap), judge) as calling:
            orders: Orders = "both" if run.swap else "given"
            played = play(contest.matches, judge.teacher, wording, calling, orders=orders)
    write_verdicts(shared.out, played)
    scores = arena_scores(played, seed=run.settings.seed)
    protocol: dict[str, Json] = {
        **contest.protocol,
        "opponent": run.models[1],
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "orders": "both" if run.swap else "one",
    }
    told: dict[str, Json] = {
        **{name: dict(score.fields()) for name, score in arena_lines(scores)},
        "wins": scores.wins,
        "losses": scores.losses,
        "ties": scores.ties,
        "swap_consistency": scores.swap_consistency,
        "shown_first": scores.shown_first,
        "missing_causes": dict(missing_causes(played)),
    }
    items = [Item(NAME, one.match.key, one.match.prompt, one.match.category, _percent(one.share)) for one in played]
    result = Result(NAME, run.models[0], protocol, told, items)
    write_result(shared.out, result)
    return result, scores


def pair_wording(judge_prompts: Path | None, *, seed: int) -> PairWording:
    """FastChat's pairwise prompts from a file, or our own wording."""
    if judge_prompts is None:
        return OwnPairs(seed)
    prompts = read_judge_prompts(judge_prompts, PUBLISHED_PAIR)
    return PublishedPairs(prompts, prompts.version)


def arena_lines(scores: ArenaScores) -> list[tuple[str, JudgedScore]]:
    """The scores with the names under which they are told."""
    return [("win_rate", scores.win_rate), ("adjusted_win_rate", scores.adjusted), *scores.categories.items()]


def _on_mt_bench(run: ArenaRun, ledger: Ledger) -> Contest:
    assert run.mt_bench is not None
    inputs = MtBenchInputs(run.mt_bench, limit=run.shared.limit, without_wrong=False)
    (first, first_hash), (second, second_hash) = (
        bench_answers(model, inputs, run.settings, run.shared, ledger) for model in run.models
    )
    matches = [
        Match(
            key=f"{one.number}/{turn}",
            prompt=str(one.number),
            category=one.category,
            turns=one.turns[:turn],
            first=_up_to(first.turns.get(one.number, ()), turn),
            second=_up_to(second.turns.get(one.number, ()), turn),
            references=one.references[:turn],
            reason=_reason(run.models, (first.reasons, second.reasons), f"{one.number}/{turn}"),
        )
        for one in inputs.questions
        for turn in range(1, len(one.turns) + 1)
    ]
    hashes: dict[str, Json] = {"model_hash": first_hash, "opponent_hash": second_hash}
    return Contest(matches, {**bench_protocol(inputs, run.settings), **hashes})


def _on_prompts(run: ArenaRun, ledger: Ledger) -> Contest:
    assert run.prompts is not None
    rows = open_rows(run.prompts, "prompt", shape="auto", bad_rows="stop", offline=run.shared.teachers.offline)
    prompts = [prompt for _, prompt in zip(range(run.shared.limit or len(rows)), rows, strict=False)]
    (first, first_reasons, first_hash), (second, second_reasons, second_hash) = (
        _answers(model, prompts, run, ledger) for model in run.models
    )
    matches = [
        Match(
            key=str(number),
            prompt=prompt_id(prompt.messages),
            category=prompt.source,
            turns=(prompt.messages[-1].content,),
            first=(mine,),
            second=(theirs,),
            context=prompt.messages[:-1],
            reason=_reason(run.models, (first_reasons, second_reasons), str(number)),
        )
        for number, (prompt, mine, theirs) in enumerate(zip(prompts, first, second, strict=True))
    ]
    protocol: dict[str, Json] = {
        "questions": len(prompts),
        "prompts": run.prompts,
        "temperature": run.temperature,
        "max_new_tokens": run.settings.max_tokens,
        "seed": run.settings.seed,
        "model_hash": first_hash,
        "opponent_hash": second_hash,
    }
    return Contest(matches, protocol)


class _Answers(NamedTuple):
    """A model's answers in the order of the prompts, why some are missing by number, and what says whose they are."""

    texts: list[str | None]
    reasons: Mapping[str, str]
    identity: str


def _answers(model: str, prompts: Sequence[Prompt], run: ArenaRun, ledger: Ledger) -> _Answers:
    path = answers_file(model)
    if path is not None:
        outputs = read_outputs(path)
        return _Answers([outputs.get(prompt.messages[-1].content) for prompt in prompts], {}, file_hash(path))
    opened = open_ledgered(teacher_form(model), "writes", run.shared.teachers, ledger)
    settings = run.settings
    requests = [
        ChatRequest(
            str(number),
            prompt.messages,
            run.temperature,
            settings.top_p,
            settings.top_k,
            settings.max_tokens,
            settings.seed,
        )
        for number, prompt in enumerate(prompts)
    ]
    with watched(f"answers of {opened.teacher.name}", len(requests), opened) as calling:
        replies = replies_to(opened.teacher, requests, calling)
    reasons = {request.key: why_no_answer(replies[request.key]) for request in requests}
    texts = [None if reasons[request.key] else replies[request.key].text for request in requests]
    return _Answers(texts, reasons, opened.identity)


def _reason(models: tuple[str, str], reasons: tuple[Mapping[str, str], Mapping[str, str]], key: str) -> str:
    """Why an answer is missing and whose it is; empty if none is, or if that is not known."""
    told = [f"{of[key]} ({model})" for model, of in zip(models, reasons, strict=True) if of.get(key)]
    return told[0] if told else ""


def _up_to(answers: tuple[str | None, ...], turn: int) -> tuple[str | None, ...]:
    """The answers of the first turns; None where there are too few."""
    return (*answers[:turn], *[None] * (turn - len(answers[:turn])))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
