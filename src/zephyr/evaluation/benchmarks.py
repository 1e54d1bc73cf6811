"""Benchmarks of a model by their names: lm-eval's tasks and the judged ones, all results in one folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from zephyr.atomic import replace_text
from zephyr.errors import DataError
from zephyr.evaluation.harness.profiles import JUDGED, expand, judged_names
from zephyr.evaluation.harness.report import EVALUATION, HarnessResults, as_json
from zephyr.evaluation.harness.run import HarnessRun, load_harness_tasks, run_harness
from zephyr.evaluation.judged.alpaca_eval import ALPACA_EVAL_SAMPLING, run_alpaca_eval
from zephyr.evaluation.judged.alpaca_eval_files import Version, find_baseline, read_instructions
from zephyr.evaluation.judged.bench import JudgedBench
from zephyr.evaluation.judged.bench_files import bench_folder
from zephyr.evaluation.judged.mt_bench import MT_BENCH, MT_BENCH_SAMPLING, run_mt_bench
from zephyr.evaluation.judged.mt_bench_questions import read_mt_bench
from zephyr.evaluation.results import Result
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.records.fields import Json
from zephyr.runs.layout import LEDGER
from zephyr.teachers.opening import TEACHER_FORMS, check_teacher

_VERSIONS: dict[str, Version] = {"alpaca_eval_1": "1", "alpaca_eval_2": "2"}


class BenchmarkResults(NamedTuple):
    """Scores of lm-eval's tasks, results of judged benchmarks, and lines on what is left out without a judge."""

    tasks: HarnessResults
    judged: list[Result]
    left_out: list[str]

    def fields(self) -> dict[str, Json]:
        """As plain fields: all but the values of the documents."""
        whole = self.tasks._replace(results=[*self.tasks.results, *self.judged])
        return {**as_json(whole), "left_out": [*self.left_out]}


def run_benchmarks(model: str, task: HarnessTask, run: HarnessRun, bench: JudgedBench | None) -> BenchmarkResults:
    """The results of one model on all that the task names; their folder holds every answer, and a rerun goes on.

    `bench`: who answers and judges judged benchmarks; None without a judge. Raises ZephyrError: what is wrong with
    names, files or the judge before a model is loaded.
    """
    checked = check_benchmarks(task, offline=run.offline)
    judged = []
    if bench is not None:
        # One ledger of all benchmarks, so that a cap is one of the whole evaluation.
        bench = replace(bench, limit=task.limit, ledger=run.out / LEDGER)
        folders = {name: bench_folder(name, task.data, offline=run.offline) for name in checked.judged}
        judged = [
            _judged_run(name, replace(bench, out=run.out / name, data=folder), task) for name, folder in folders.items()
        ]
    has_tasks = bool(expand(task.tasks, None)) or not judged
    harness = run_harness(model, task, run) if has_tasks else HarnessResults(tuple(task.tasks), [], {})
    found = BenchmarkResults(harness, [one() for one in judged], checked.left_out)
    replace_text(run.out / EVALUATION, json.dumps(found.fields(), indent=1, ensure_ascii=False) + "\n")
    return found


class CheckedBenchmarks(NamedTuple):
    """The judged benchmarks that will run, and lines on those that are left out without a judge."""

    judged: list[str]
    left_out: list[str]


def check_benchmarks(task: HarnessTask, *, offline: bool, where: str = "judge") -> CheckedBenchmarks:
    """The judged benchmarks of the task, whose files are there and whose judge can be opened.

    Raises ZephyrError for files that are not there, for a judge that cannot be opened, and for a judged benchmark that
    is named without a judge; `where` is the judge's dotted key.
    """
    wanted = judged_names(task.tasks)
    if not wanted:
        return CheckedBenchmarks([], [])
    if task.judge is None:
        named = [name for name in task.tasks if name in JUDGED]
        if named:
            remedy = f"name one (--judge, or `judge` in a recipe): {TEACHER_FORMS}"
            raise DataError(f"task {named[0]}", "needs a judge, and none is given", remedy)
        return CheckedBenchmarks([], [f"left out without a judge: {', '.join(wanted)}"])
    check_teacher(task.judge, where=where, offline=offline)
    for name in wanted:
        folder = bench_folder(name, task.data, offline=offline)
        if name == MT_BENCH:
            read_mt_bench(folder, limit=task.limit)
        else:
            read_instructions(find_baseline(folder, _VERSIONS[name]))
    return CheckedBenchmarks(wanted, [])


def count_documents(task: HarnessTask, *, offline: bool) -> tuple[int, int]:
    """The numbers of lm-eval's tasks and of the documents that are asked of them.

    Raises DataError for what is unknown or has no data.
    """
    if not expand(task.tasks, None):
        return 0, 0
    loaded = load_harness_tasks(task, offline=offline)
    sizes = [len(one.task.eval_docs) for one in loaded.values()]
    return len(loaded), sum(size if task.limit is None else min(size, task.limit) for size in sizes)


def _judged_run(name: str, bench: JudgedBench, task: HarnessTask) -> Callable[[], Result]:
    """The run of a judged benchmark, by the published protocol but for the longest answer."""
    longest = {} if task.max_new_tokens is None else {"max_new_tokens": task.max_new_tokens}
    if name == MT_BENCH:
        return lambda: run_mt_bench(bench, sampling=MT_BENCH_SAMPLING.model_copy(update=longest))
    sampling = ALPACA_EVAL_SAMPLING.model_copy(update=longest)
    return lambda: run_alpaca_eval(bench, _VERSIONS[name], sampling=sampling)
