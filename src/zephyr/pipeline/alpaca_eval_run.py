"""A run of AlpacaEval: a model's answers against a baseline's, their verdicts, and the win rates."""

from dataclasses import dataclass
from pathlib import Path

from zephyr.errors import DataError
from zephyr.evaluate.judged.alpaca_eval import (
    BASELINES,
    AlpacaEvalScores,
    AnswerSettings,
    Instruction,
    InstructionAnswers,
    Version,
    alpaca_eval_scores,
    answer_instructions,
    find_baseline,
    matches_of,
    model_share,
    published_order,
    read_instructions,
    read_outputs,
)
from zephyr.evaluate.judged.arena import Orders, Played, arena_scores, missing_causes, play
from zephyr.evaluate.judged.arena_wording import OwnPairs, PairWording, RankedPairs, WeightedPairs
from zephyr.evaluate.judged.length_controlled import read_difficulty, read_gamed
from zephyr.evaluate.judged.score import JudgedScore
from zephyr.evaluate.results import Item, Result, write_result
from zephyr.judging.published_prompts import read_turns_prompt
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
from zephyr.records.fields import Json
from zephyr.records.writing import write_jsonl
from zephyr.teachers.ledger.ledger import Ledger


@dataclass(frozen=True)
class AlpacaEvalRun:
    """What a run of AlpacaEval is told."""

    model: str
    data: Path
    version: Version
    shared: JudgedRun
    settings: AnswerSettings
    judge_prompt: Path | None = None  # None: our own wording
    difficulty: Path | None = None
    gamed: Path | None = None
    swap: bool = True

    @property
    def name(self) -> str:
        """Under which results are kept."""
        return f"alpaca_eval_{self.version}"


def run_alpaca_eval(run: AlpacaEvalRun) -> tuple[Result, AlpacaEvalScores]:
    """The finished run; its folder holds answers, verdicts, values and scores."""
    baseline = find_baseline(run.data, run.version)
    instructions = read_instructions(baseline)[: run.shared.limit]
    wording = _wording(run)
    difficulty = None if run.difficulty is None else _enough(run.difficulty, len(instructions))
    gamed = None if run.gamed is None else read_gamed(run.gamed)
    shared = run.shared
    with shared.ledgers(run.model) as ledgers:
        answers, model_hash = _answers(run, instructions, ledgers.answers)
        rows = ({"instruction": text, "output": said, "generator": run.model} for text, said in answers.texts.items())
        write_jsonl(shared.out / "answers.jsonl", rows, replace=True)
        judge = open_ledgered(shared.judge, "rates", shared.teachers, ledgers.judge)
        matches = matches_of(instructions, answers)
        orders: dict[str, Orders] = {
            match.key: "both" if run.swap else published_order(match.turns[0]) for match in matches
        }
        with watched("judge", len(matches) * (1 + run.swap), judge) as calling:
            played = play(matches, judge.teacher, wording, calling, orders=orders)
    write_verdicts(shared.out, played)
    scores = alpaca_eval_scores(played, difficulty=difficulty, gamed=gamed, seed=run.settings.seed)
    protocol: dict[str, Json] = {
        "questions": len(instructions),
        "questions_hash": file_hash(baseline),
        "opponent": BASELINES[run.version].removesuffix("_outputs.json"),
        "temperature": run.settings.temperature,
        "top_p": run.settings.top_p,
        "top_k": run.settings.top_k,
        "max_new_tokens": run.settings.max_tokens,
        "seed": run.settings.seed,
        "model_hash": model_hash,
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "judge_temperature": wording.temperature,
        "orders": "both" if run.swap else "as published",
        "instruction_difficulty": "none" if run.difficulty is None else file_hash(run.difficulty),
        "gamed_baselines": "none" if run.gamed is None else file_hash(run.gamed),
    }
    items = [Item(run.name, one.match.key, one.match.prompt, one.match.category, _percent(one)) for one in played]
    result = Result(run.name, run.model, protocol, _told(scores, played), items)
    write_result(shared.out, result)
    return result, scores


def alpaca_lines(scores: AlpacaEvalScores) -> list[tuple[str, JudgedScore]]:
    """The scores with the names under which they are told."""
    lines = [("as_published", scores.as_published), ("both_orders", scores.both_orders)]
    controlled = scores.length_controlled
    if controlled is not None:
        error = controlled.standard_error
        low, high = controlled.win_rate - 1.96 * error, controlled.win_rate + 1.96 * error
        published = scores.as_published
        length_controlled = published._replace(score=controlled.win_rate, standard_error=error, low=low, high=high)
        lines.append(("length_controlled", length_controlled))
    return [*lines, *scores.subsets.items()]


def _told(scores: AlpacaEvalScores, played: list[Played]) -> dict[str, Json]:
    told: dict[str, Json] = {name: dict(score.fields()) for name, score in alpaca_lines(scores)}
    arena = arena_scores(played)
    told |= {"swap_consistency": arena.swap_consistency, "shown_first": arena.shown_first}
    told |= {
        "missing_causes": dict(missing_causes(played)),
        "empty_answers": sum(one.match.second == ("",) for one in played),
    }
    if scores.length_controlled is not None:
        told["length_controlled_weights"] = dict(scores.length_controlled.weights._asdict())
    return told


def _wording(run: AlpacaEvalRun) -> PairWording:
    if run.judge_prompt is None:
        return OwnPairs(run.settings.seed)
    refuse_scripted(run.shared.judge, "--judge-prompt")
    prompt = read_turns_prompt(run.judge_prompt)
    return RankedPairs(prompt, prompt.version) if run.version == "1" else WeightedPairs(prompt, prompt.version)


def _enough(path: Path, num_instructions: int) -> list[float]:
    difficulty = read_difficulty(path)
    if len(difficulty) < num_instructions:
        what = f"has the difficulty of {len(difficulty)} instructions, and there are {num_instructions}"
        raise DataError(path.name, what, "name AlpacaEval's instruction_difficulty.csv")
    return difficulty[:num_instructions]


def _answers(run: AlpacaEvalRun, instructions: list[Instruction], ledger: Ledger) -> tuple[InstructionAnswers, str]:
    path = answers_file(run.model)
    if path is not None:
        outputs = read_outputs(path)
        texts = {one.text: outputs.get(one.text) for one in instructions}
        return InstructionAnswers(texts, {}), file_hash(path)
    opened = open_ledgered(teacher_form(run.model), "writes", run.shared.teachers, ledger)
    with watched(f"answers of {opened.teacher.name}", len(instructions), opened) as calling:
        return answer_instructions(opened.teacher, instructions, run.settings, calling), opened.identity


def _percent(one: Played) -> float | None:
    share = model_share(one)
    return None if share is None else 100 * share
