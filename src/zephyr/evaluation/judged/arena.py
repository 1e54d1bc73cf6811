"""Two assistants on prompts of one's own or MT-Bench's, compared by a judge in both orders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.data.read.sources import open_source
from zephyr.errors import DataError
from zephyr.evaluation.judged.alpaca_eval_files import read_outputs
from zephyr.evaluation.judged.bench import (
    Contestant,
    JudgedBench,
    check_answers_match,
    file_hash,
    refuse_scripted,
    replies_to,
    thinking_note,
    why_no_answer,
)
from zephyr.evaluation.judged.games import arena_scores, in_percent, judge_notes, missing_causes, play, write_verdicts
from zephyr.evaluation.judged.mt_bench import mt_bench_answers, mt_bench_protocol
from zephyr.evaluation.judged.mt_bench_questions import read_mt_bench
from zephyr.evaluation.judged.pairs import PUBLISHED_PAIR, Match, OwnPairs, PairWording, PublishedPairs
from zephyr.evaluation.results import Item, Result, write_result
from zephyr.judging.published_prompts import read_judge_prompts
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import Json
from zephyr.records.rows import Prompt, prompt_id
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatRequest

ARENA = "arena"


def run_arena(
    bench: JudgedBench,
    *,
    sampling: SamplingSection,
    prompts: str | None = None,
    judge_prompts: Path | None = None,
    swap: bool = True,
) -> Result:
    """The result of the first contestant against the second; the run's folder holds verdicts, values and scores.

    The prompts are rows of a file or of the hub, or MT-Bench's in the folder `bench.data`. `judge_prompts`: FastChat's
    pairwise prompts, None: our own wording. Raises DataError where both or neither are named.
    """
    wording: PairWording = OwnPairs(bench.seed)
    if judge_prompts is not None:
        refuse_scripted(bench.judge, "--judge-prompts")
        published = read_judge_prompts(judge_prompts, PUBLISHED_PAIR)
        wording = PublishedPairs(published, published.version)
    if (prompts is None) == (bench.data is None):
        raise DataError("zephyr arena", "needs prompts, from one place", "name --prompts FILE or --mt-bench DIR")
    with bench.ledgers() as ledgers:
        if prompts is None:
            matches, protocol, notes = _on_mt_bench(bench, sampling, ledgers.answers)
        else:
            matches, protocol, notes = _on_prompts(bench, prompts, sampling, ledgers.answers)
        judge = bench.open_judge(ledgers.judge)
        with judge.batches("judge", len(matches) * (1 + swap)) as batches:
            played = play(matches, judge.teacher, wording, batches, orders="both" if swap else "given")
    write_verdicts(bench.out, played)
    found = arena_scores(played, seed=bench.seed)
    protocol |= {
        "opponent": bench.contestants[1].name,
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "orders": "both" if swap else "one",
    }
    named = {"win_rate": found.win_rate, "adjusted_win_rate": found.adjusted, **found.categories}
    scores: dict[str, Json] = {
        **{name: dict(score.fields()) for name, score in named.items()},
        "wins": found.wins,
        "losses": found.losses,
        "ties": found.ties,
        "swap_consistency": found.swap_consistency,
        "shown_first": found.shown_first,
        "missing_causes": dict(missing_causes(played)),
        "notes": [*notes, *judge_notes(played)],
    }
    items = [Item(ARENA, one.match.key, one.match.prompt, one.match.category, in_percent(one.share)) for one in played]
    result = Result(ARENA, bench.contestants[0].name, protocol, scores, items)
    write_result(bench.out, result)
    return result


def _on_mt_bench(
    bench: JudgedBench, sampling: SamplingSection, ledger: Ledger
) -> tuple[list[Match], dict[str, Json], tuple[str, ...]]:
    """The matches on both turns of MT-Bench's questions, what their answers depend on, and notes."""
    assert bench.data is not None
    questions = read_mt_bench(bench.data, limit=bench.limit)
    (first, first_hash), (second, second_hash) = (
        mt_bench_answers(one, questions, sampling, bench, ledger) for one in bench.contestants
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
            reason=_reason(bench.contestants, (first.reasons, second.reasons), f"{one.number}/{turn}"),
        )
        for one in questions.questions
        for turn in range(1, len(one.turns) + 1)
    ]
    protocol = mt_bench_protocol(questions, sampling, seed=bench.seed)
    hashes: dict[str, Json] = {"model_hash": first_hash, "opponent_hash": second_hash}
    return matches, {**protocol, **hashes}, (*first.notes, *second.notes)


def _on_prompts(
    bench: JudgedBench, file: str, sampling: SamplingSection, ledger: Ledger
) -> tuple[list[Match], dict[str, Json], tuple[str, ...]]:
    """The matches on prompts of any format, what their answers depend on, and notes."""
    rows = open_source(DataSource(path=file), "prompt", data_dir=Path(), offline=bench.offline)
    prompts = [prompt for _, prompt in zip(range(bench.limit or len(rows)), rows, strict=False)]
    first, second = (_answers(one, prompts, sampling, bench, ledger) for one in bench.contestants)
    matches = [
        Match(
            key=str(number),
            prompt=prompt_id(prompt.messages),
            category=prompt.source,
            turns=(prompt.messages[-1].content,),
            first=(mine,),
            second=(theirs,),
            context=prompt.messages[:-1],
            reason=_reason(bench.contestants, (first.reasons, second.reasons), str(number)),
        )
        for number, (prompt, mine, theirs) in enumerate(zip(prompts, first.texts, second.texts, strict=True))
    ]
    protocol: dict[str, Json] = {
        "questions": len(prompts),
        "prompts": file,
        "temperature": sampling.temperature,
        "max_new_tokens": sampling.max_new_tokens,
        "seed": bench.seed,
        "model_hash": first.identity,
        "opponent_hash": second.identity,
    }
    return matches, protocol, (*first.notes, *second.notes)


class _Answers(NamedTuple):
    """Answers in the order of the prompts, why some are missing by number, a hash of whose they are, and notes."""

    texts: list[str | None]
    reasons: Mapping[str, str]
    identity: str
    notes: tuple[str, ...] = ()


def _answers(
    contestant: Contestant, prompts: Sequence[Prompt], sampling: SamplingSection, bench: JudgedBench, ledger: Ledger
) -> _Answers:
    name, source = contestant
    if isinstance(source, Path):
        outputs = read_outputs(source)
        asked = [prompt.messages[-1].content for prompt in prompts]
        notes = check_answers_match(source, list(outputs), set(asked), "prompts")
        given = [outputs.get(text) for text in asked]
        notes += thinking_note(name, [one.reasoning if one else "" for one in given])
        return _Answers([None if one is None else one.answer for one in given], {}, file_hash(source), notes)
    model = bench.open(source, "writes", ledger, where=name)
    requests = [
        ChatRequest(
            key=str(number),
            messages=prompt.messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=bench.seed,
        )
        for number, prompt in enumerate(prompts)
    ]
    with model.batches(f"answers of {model.teacher.name}", len(requests)) as batches:
        replies = replies_to(model.teacher, requests, batches)
    reasons = {request.key: why_no_answer(replies[request.key]) for request in requests}
    texts = [None if reasons[request.key] else replies[request.key].text for request in requests]
    return _Answers(texts, reasons, model.identity, thinking_note(name, [one.reasoning for one in replies.values()]))


def _reason(contestants: Sequence[Contestant], reasons: Sequence[Mapping[str, str]], key: str) -> str:
    """Why an answer is missing and whose it is; empty if none is, or if that is not known."""
    known = [f"{of[key]} ({one.name})" for one, of in zip(contestants, reasons, strict=True) if of.get(key)]
    return known[0] if known else ""


def _up_to(answers: tuple[str | None, ...], turn: int) -> tuple[str | None, ...]:
    """The answers of the first turns; None where there are too few."""
    return (*answers[:turn], *[None] * (turn - len(answers[:turn])))
