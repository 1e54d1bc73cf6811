"""Judged benchmarks by their names, made ready before any model is loaded: judge and files are looked at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zephyr.errors import DataError
from zephyr.evaluate.harness.profiles import JUDGED
from zephyr.evaluate.judged.alpaca_eval import AnswerSettings, Version, find_baseline, read_instructions
from zephyr.evaluate.judged.mt_bench import MtBenchSettings
from zephyr.evaluate.results import Result
from zephyr.pipeline.alpaca_eval_run import AlpacaEvalRun, run_alpaca_eval
from zephyr.pipeline.asked_teachers import FORMS, Named, TeacherOptions, look_at
from zephyr.pipeline.judged_run import JudgedRun
from zephyr.pipeline.mt_bench_run import NAME, MtBenchInputs, MtBenchRun, run_mt_bench
from zephyr.runs.layout import LEDGER

_VERSIONS: dict[str, Version] = {"alpaca_eval_1": "1", "alpaca_eval_2": "2"}


@dataclass(frozen=True)
class Judging:
    """Who rates answers, if anybody; `ledger`: a file of the judge's calls that is not of one benchmark alone."""

    judge: Named | None
    teachers: TeacherOptions
    cap_tokens: int | None = None
    ledger: Path | None = None


@dataclass(frozen=True)
class Bench:
    """Where the benchmarks' files are, where results go, how many questions are asked, if not all, and how answered.

    `max_new_tokens`: the longest answer, for a model whose context has no room for the published one.
    """

    data: Path | None
    out: Path
    limit: int | None = None
    max_new_tokens: int | None = None


def without_judge(asked: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Words on benchmarks of a profile that are left out for want of a judge; DataError for one asked for by name."""
    named = [name for name in asked if name in JUDGED]
    if named:
        remedy = f"name one (--judge, or `judge` in a recipe): {FORMS}"
        raise DataError(f"task {named[0]}", "is rated by a judge, and none is named", remedy)
    return [f"left out, as no judge is named: {', '.join(wanted)}"] if wanted else []


def judged_ahead(model: str, wanted: Sequence[str], bench: Bench, judging: Judging) -> list[Callable[[], Result]]:
    """Runs of the wanted benchmarks. Raises ZephyrError for files that are not there and a judge that cannot be."""
    if not wanted:
        return []
    assert judging.judge is not None
    data = bench.data
    if data is None:
        remedy = "put its authors' files into DIR/mt_bench or DIR/alpaca_eval, and name DIR with --data"
        raise DataError(f"task {wanted[0]}", "is read from files, and no folder is named", remedy)
    look_at(judging.judge, judging.teachers)
    shared = JudgedRun(
        judging.judge,
        bench.out,
        judging.teachers,
        judging.cap_tokens,
        bench.limit,
        ledger=bench.out / LEDGER,  # of all benchmarks, so that a cap is one of the whole evaluation
        judge_ledger=judging.ledger,
    )
    longest = bench.max_new_tokens
    return [_ready(name, model, data, replace(shared, out=bench.out / name), longest) for name in wanted]


def _ready(name: str, model: str, data: Path, shared: JudgedRun, longest: int | None) -> Callable[[], Result]:
    seed = shared.teachers.seed
    if name == NAME:
        MtBenchInputs(data, limit=shared.limit, without_wrong=False)
        settings = MtBenchSettings(seed=seed)
        bench = MtBenchRun(model, data, shared, replace(settings, max_tokens=longest or settings.max_tokens))
        return lambda: run_mt_bench(bench)[0]
    version = _VERSIONS[name]
    read_instructions(find_baseline(data, version))
    answering = AnswerSettings(seed=seed)
    answering = answering._replace(max_tokens=longest or answering.max_tokens)
    run = AlpacaEvalRun(model, data, version, shared, answering)
    return lambda: run_alpaca_eval(run)[0]
