"""lm-eval's tasks in a run: of every model, each in a folder of the evaluate stage; and what `check` says of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from zephyr.evaluate.harness.run import EvalOptions, run, tasks_of
from zephyr.pipeline.stage_folder import MODEL, Facts
from zephyr.pipeline.stages import Work
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.recipe.schema import Recipe

# The score a task is known by.
_MAIN = "score"


def benchmark_scores(work: Work, task: HarnessTask, number: int, titles: Mapping[str, str]) -> Facts:
    """Each task's score in percent of every model, by task and model. What has its answer is not asked again."""
    found: Facts = {}
    for stage, title in titles.items():
        options = _options(work.recipe, task, work.folder / f"{number}-harness-{stage}")
        for result in run(str(work.inputs[stage] / MODEL), options).results:
            score = result.scores[_MAIN]
            assert isinstance(score, dict)
            found[f"{result.benchmark}/{title}"] = score["score"]
    return found


def benchmark_lines(recipe: Recipe) -> Iterator[str]:
    """A line on the tasks that a recipe names. Raises DataError for one that is not known or has no data."""
    section = recipe.evaluate
    for task in section.tasks if section is not None else ():
        if isinstance(task, HarnessTask):
            loaded = tasks_of(_options(recipe, task, Path()))
            documents = sum(len(one.task.eval_docs) for one in loaded.values())
            yield f"{', '.join(task.tasks)}: {len(loaded)} tasks of {documents:,} documents"


def _options(recipe: Recipe, task: HarnessTask, out: Path) -> EvalOptions:
    data = None if task.data is None else Path(recipe.data_dir) / task.data
    return EvalOptions(
        names=tuple(task.tasks),
        data=data,
        out=out,
        shots=task.shots,
        limit=task.limit,
        chat_template=task.chat_template,
        offline=recipe.offline,
    )
