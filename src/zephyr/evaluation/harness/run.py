"""A whole evaluation with lm-eval: names, data, model, answers, in an order in which mistakes show early."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zephyr.errors import DataError
from zephyr.evaluation.harness.evaluation import Prompting, TaskScores, evaluate_tasks
from zephyr.evaluation.harness.finished import FinishedRequests
from zephyr.evaluation.harness.profiles import expand
from zephyr.evaluation.harness.report import HarnessResults, harness_results, save_results
from zephyr.evaluation.harness.tasks import LoadedTask, load_tasks
from zephyr.models.loading import load, placement
from zephyr.models.source import Source
from zephyr.models.weight_hash import weights_hash
from zephyr.recipe.evaluate_section import HarnessTask
from zephyr.records.fields import Json

if TYPE_CHECKING:
    from zephyr.evaluation.harness.language_model import ForestLM

_DISTRIBUTIONS = ("lm_eval", "torch", "transformers")
REQUESTS = "requests.sqlite"
# Tasks that are dialogues, so that a chat model is prompted in its own template.
_CHAT_TASKS = ("ifeval",)


class HarnessRun(NamedTuple):
    """Where results go, and what a recipe does not say of an evaluation.

    `max_tokens`: unique tokens computed together, None: by the longest request; `cache_tokens`: tokens of key-value
    cache while answers are generated, None: by the device.
    """

    out: Path
    offline: bool = False
    system: str | None = None
    dtype: str | None = None
    max_tokens: int | None = None
    cache_tokens: int | None = None


def run_harness(model: str, task: HarnessTask, run: HarnessRun) -> HarnessResults:
    """The results of a model; they and every answer are then in the folder `run.out`.

    Raises DataError for tasks or data that are not there, ModelError for a model that cannot be loaded or answer.
    """
    tasks = load_harness_tasks(task, offline=run.offline)
    # Behind the tasks, which say so where lm-eval is not installed.
    from zephyr.evaluation.harness.generated import check_room, limit_answers
    from zephyr.evaluation.harness.language_model import ForestLM, longest_sequence

    tasks = {name: limit_answers(one, task.max_new_tokens) for name, one in tasks.items()}
    device, usual = placement()
    dtype = run.dtype or usual
    loaded = load(Source(model, offline=run.offline), dtype=dtype, device=device)
    check_room(tasks, longest_sequence(loaded), model=model)
    identity = weights_hash(loaded.model)
    finished = FinishedRequests(run.out / REQUESTS, of=f"{identity} {dtype}")
    try:
        answering = ForestLM(loaded, max_tokens=run.max_tokens, max_cache_tokens=run.cache_tokens, finished=finished)
        scores = _scores(answering, tasks, task, run.system)
    finally:
        finished.close()
    facts: dict[str, Json] = {
        "model_hash": identity,
        "dtype": dtype,
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
        **{name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
    }
    name = Path(model).resolve().name if Path(model).is_dir() else model
    found = harness_results(task.tasks, scores, model=name, facts=facts)
    save_results(found, scores, run.out)
    return found


def load_harness_tasks(task: HarnessTask, *, offline: bool) -> dict[str, LoadedTask]:
    """lm-eval's tasks with their data. Raises DataError for an unknown name, and for data that is not there."""
    if task.data is not None and not task.data.is_dir():
        raise DataError(str(task.data), "there is no such folder", "name the folder with the tasks' data")
    if task.include_path is not None and not task.include_path.is_dir():
        raise DataError(
            str(task.include_path), "there is no such folder", "name the folder with your tasks' YAML files"
        )
    wanted = expand(task.tasks, task.shots)
    return load_tasks(wanted, data_dir=task.data, offline=offline, include_path=task.include_path)


def _scores(
    model: ForestLM, tasks: dict[str, LoadedTask], task: HarnessTask, system: str | None
) -> dict[str, TaskScores]:
    """The scores in the order of the tasks; those with a chat template and those without are evaluated in turn."""
    has_template = bool(model.tokenizer.chat_template)

    def in_chat(name: str) -> bool:
        if task.chat_template == "auto":
            return has_template and name in _CHAT_TASKS
        return task.chat_template == "on"

    found: dict[str, TaskScores] = {}
    for chat in (False, True):
        chosen = {name: one for name, one in tasks.items() if in_chat(name) == chat}
        if chosen:
            found |= evaluate_tasks(model, chosen, Prompting(chat, task.limit, system))
    return {name: found[name] for name in tasks}
