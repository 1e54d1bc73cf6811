"""A run of MT-Bench: a model's answers, their ratings, and the scores, in one folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zephyr.errors import DataError
from zephyr.evaluate.judged.calls import count_causes
from zephyr.evaluate.judged.mt_bench import (
    MtBenchScores,
    MtBenchSettings,
    TurnRating,
    answer_questions,
    mt_bench_scores,
    rate_answers,
)
from zephyr.evaluate.judged.mt_bench_questions import (
    REPORTED_WRONG,
    Answered,
    BenchFiles,
    Question,
    answer_rows,
    find_files,
    read_answers,
    read_questions,
)
from zephyr.evaluate.judged.mt_bench_wording import PUBLISHED_SINGLE, OwnScores, PublishedScores, ScoreWording
from zephyr.evaluate.judged.score import JudgedScore
from zephyr.evaluate.results import Item, Result, write_result
from zephyr.judging.published_prompts import JudgePrompts, read_judge_prompts
from zephyr.pipeline.judged_run import (
    JudgedRun,
    answers_file,
    file_hash,
    open_ledgered,
    refuse_scripted,
    teacher_form,
    watched,
)
from zephyr.records.fields import Json
from zephyr.records.writing import write_jsonl
from zephyr.teachers.ledger.ledger import Ledger

NAME = "mt_bench"


@dataclass(frozen=True)
class MtBenchRun:
    """What a run of MT-Bench is told."""

    model: str
    data: Path
    shared: JudgedRun
    settings: MtBenchSettings
    published_wording: bool = False
    without_wrong_references: bool = False


class MtBenchInputs:
    """Everything that is read before any model is: files that are missing are told at once."""

    def __init__(self, data: Path, *, limit: int | None, without_wrong: bool) -> None:
        self.files: BenchFiles = find_files(data)
        self.questions: list[Question] = read_questions(self.files, without_wrong=without_wrong)[:limit]

    def judge_prompts(self, needed: tuple[str, ...]) -> JudgePrompts:
        """FastChat's judge prompts. Raises DataError."""
        if self.files.judge_prompts is None:
            remedy = "get it from FastChat's fastchat/llm_judge/data and put it into --data, or use --wording own"
            raise DataError("--wording published", "there is no judge_prompts.jsonl", remedy)
        return read_judge_prompts(self.files.judge_prompts, needed)

    @property
    def num_turns(self) -> int:
        """Of all questions together."""
        return sum(len(question.turns) for question in self.questions)


def run_mt_bench(run: MtBenchRun) -> tuple[Result, MtBenchScores]:
    """The finished run; its folder holds answers, judgments, values and scores."""
    inputs = MtBenchInputs(run.data, limit=run.shared.limit, without_wrong=run.without_wrong_references)
    wording: ScoreWording = OwnScores(run.settings.seed)
    if run.published_wording:
        refuse_scripted(run.shared.judge, "--wording published")
        wording = PublishedScores(inputs.judge_prompts(PUBLISHED_SINGLE))
    shared = run.shared
    with shared.ledgers(run.model) as ledgers:
        answers, model_hash = bench_answers(run.model, inputs, run.settings, shared, ledgers.answers)
        write_jsonl(shared.out / "answers.jsonl", answer_rows(answers.turns, run.model), replace=True)
        judge = open_ledgered(shared.judge, "rates", shared.teachers, ledgers.judge)
        with watched("judge", inputs.num_turns, judge) as calling:
            ratings = rate_answers(answers, inputs.questions, judge.teacher, wording, run.settings, calling)
    write_jsonl(shared.out / "judgments.jsonl", (rating._asdict() for rating in ratings), replace=True)
    scores = mt_bench_scores(ratings, seed=run.settings.seed)
    left_out: list[Json] = list(REPORTED_WRONG) if run.without_wrong_references else []
    protocol: dict[str, Json] = {
        **bench_protocol(inputs, run.settings),
        "model_hash": model_hash,
        "judge": judge.teacher.name,
        "judge_hash": judge.identity,
        "template": wording.version,
        "references_left_out": left_out,
        "swap_consistency": None,
    }
    told: dict[str, Json] = {
        **score_fields(scores),
        "missing_causes": dict(count_causes(one.reason for one in ratings)),
        "empty_answers": sum(answers.turns.get(one.number, ()).count("") for one in inputs.questions),
    }
    result = Result(NAME, run.model, protocol, told, _items(ratings))
    write_result(shared.out, result)
    return result, scores


def bench_answers(
    model: str, inputs: MtBenchInputs, settings: MtBenchSettings, shared: JudgedRun, ledger: Ledger
) -> tuple[Answered, str]:
    """A model's answers, asked for or from a file, and what says whose they are."""
    path = answers_file(model)
    if path is not None:
        return Answered(read_answers(path), {}), file_hash(path)
    opened = open_ledgered(teacher_form(model), "writes", shared.teachers, ledger)
    with watched(f"answers of {opened.teacher.name}", len(inputs.questions), opened) as calling:
        return answer_questions(opened.teacher, inputs.questions, settings, calling), opened.identity


def bench_protocol(inputs: MtBenchInputs, settings: MtBenchSettings) -> dict[str, Json]:
    """What answers and judgments depend on besides who writes them."""
    return {
        "questions": len(inputs.questions),
        "questions_hash": file_hash(inputs.files.questions),
        "references_hash": file_hash(inputs.files.references),
        "temperature": "by category",
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_tokens,
        "judge_max_tokens": settings.judge_max_tokens,
        "judge_temperature": 0.0,
        "seed": settings.seed,
    }


def score_fields(scores: MtBenchScores) -> dict[str, Json]:
    """All scores by name."""
    named = {name: score.fields() for name, score in score_lines(scores)}
    return {name: dict(fields) for name, fields in named.items()}


def score_lines(scores: MtBenchScores) -> list[tuple[str, JudgedScore]]:
    """The scores with the names under which they are told."""
    return [
        ("as_published", scores.as_published),
        *((f"turn_{turn}", score) for turn, score in scores.turns.items()),
        ("failures_counted", scores.failures_counted),
        ("without_reported_wrong", scores.without_reported_wrong),
        *scores.categories.items(),
    ]


def _items(ratings: Sequence[TurnRating]) -> list[Item]:
    return [Item(NAME, one.key, str(one.number), one.category, one.rating) for one in ratings]
