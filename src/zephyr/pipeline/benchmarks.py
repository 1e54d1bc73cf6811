"""Benchmarks of a model by their names: lm-eval's tasks and the judged ones, all results in one folder.

A command line asks for one model, a recipe for every model of its run; `check` asks what can be known beforehand.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from zephyr.atomic import replace_text
from zephyr.evaluate.harness.profiles import expand, judged_names
from zephyr.evaluate.harness.report import EVALUATION, MAIN, Evaluated, as_json
from zephyr.evaluate.harness.run import EvalOptions, run, tasks_of
from zephyr.evaluate.results import RESULT, Result
from zephyr.pipeline.asked_teachers import TeacherOptions
from zephyr.pipeline.judged_benchmarks import Bench, Judging, judged_ahead, without_judge
from zephyr.pipeline.ready import answering_source
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, VllmSection
from zephyr.records.fields import Json
from zephyr.runs.layout import LEDGER, MODEL
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work

# The score that a judged benchmark is known by.
AS_PUBLISHED = "as_published"


class Benchmarked(NamedTuple):
    """Scores of lm-eval's tasks, results of judged benchmarks, and words on what is left out for want of a judge."""

    tasks: Evaluated
    judged: list[Result]
    left_out: list[str]

    def fields(self) -> dict[str, Json]:
        """As plain fields: all but the values of the documents."""
        whole = self.tasks._replace(results=[*self.tasks.results, *self.judged])
        return {**as_json(whole), "left_out": [*self.left_out]}


def run_benchmarks(model: str, options: EvalOptions, judging: Judging) -> Benchmarked:
    """All that the options name, of one model; their folder holds every answer, and a rerun goes on from it.

    What is wrong with names, files or the judge is raised before a model is loaded.
    """
    wanted = judged_names(options.names)
    left_out = without_judge(options.names, wanted) if judging.judge is None else []
    bench = Bench(options.data, options.out, options.limit, options.max_new_tokens)
    judged = judged_ahead(model, [] if left_out else wanted, bench, judging)
    has_tasks = bool(expand(options.names, None)) or not judged
    told = run(model, options) if has_tasks else Evaluated(options.names, [], {})
    found = Benchmarked(told, [one() for one in judged], left_out)
    replace_text(options.out / EVALUATION, json.dumps(found.fields(), indent=1, ensure_ascii=False) + "\n")
    return found


def benchmark_scores(work: Work, task: HarnessTask, number: int, titles: Mapping[str, str]) -> dict[str, Facts]:
    """The scores of every model by benchmark, in percent or marks. What has its answer is not asked again."""
    found: dict[str, Facts] = {}
    for stage, title in titles.items():
        options = _options(work.recipe, task, work.folder / f"{number}-{task.name}-{stage}")
        model, judging = str(work.inputs[stage] / MODEL), _judging(work, task)
        told = run_benchmarks(model, options, judging)
        results = (*told.tasks.results, *told.judged)
        found[title] = {one.benchmark: _score(one, options.out.name) for one in results}
    return found


def benchmark_lines(recipe: Recipe) -> Iterator[str]:
    """A line on the tasks that a recipe names. Raises DataError for one that is not known or has no data."""
    section = recipe.evaluate
    for task in section.tasks if section is not None else ():
        if isinstance(task, HarnessTask):
            options = _options(recipe, task, Path())
            wanted = judged_names(options.names)
            left_out = [] if task.judge else without_judge(options.names, wanted)
            teachers = TeacherOptions(offline=recipe.offline, seed=recipe.seed)
            bench = Bench(options.data, options.out, options.limit)
            judged = judged_ahead("", [] if left_out else wanted, bench, Judging(task.judge, teachers))
            loaded = tasks_of(options) if expand(options.names, None) else {}
            documents = sum(len(one.task.eval_docs) for one in loaded.values())
            others = f", {len(judged)} judged benchmarks" if judged else ""
            yield f"{', '.join(task.tasks)}: {len(loaded)} tasks of {documents:,} documents{others}"
            yield from left_out


def _score(result: Result, folder: str) -> dict[str, Json]:
    """The score that the benchmark is known by, with its doubt and the file that it stands in."""
    told = result.scores[AS_PUBLISHED if AS_PUBLISHED in result.scores else MAIN]
    assert isinstance(told, dict)
    # A judged benchmark has one score by which it is known, as published.
    metric = result.protocol.get("metric", AS_PUBLISHED)
    return {**told, "metric": metric, "file": f"{folder}/{result.benchmark}/{RESULT}"}


def _options(recipe: Recipe, task: HarnessTask, out: Path) -> EvalOptions:
    data = None if task.data is None else Path(recipe.data_dir) / task.data
    return EvalOptions(
        names=tuple(task.tasks),
        data=data,
        out=out,
        shots=task.shots,
        limit=task.limit,
        chat_template=task.chat_template,
        max_new_tokens=task.max_new_tokens,
        offline=recipe.offline,
    )


def _judging(work: Work, task: HarnessTask) -> Judging:
    """The judge of a recipe; what an endpoint is paid for serves the whole run, and counts for its caps."""
    judge = task.judge
    if isinstance(judge, LocalSection | VllmSection):
        judge = judge.model_copy(update={"model": answering_source(judge.model, work).name})
    teachers = TeacherOptions(offline=work.recipe.offline, seed=work.recipe.seed)
    ledger = work.run_folder / LEDGER if isinstance(judge, EndpointSection) else None
    return Judging(judge, teachers, ledger=ledger)
