"""A whole evaluation: names, data, model, answers, in an order in which mistakes show early."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zephyr.errors import DataError
from zephyr.evaluate.harness.evaluation import EvaluationSettings, TaskScores, evaluate_tasks
from zephyr.evaluate.harness.finished import FinishedRequests
from zephyr.evaluate.harness.profiles import expand
from zephyr.evaluate.harness.report import Evaluated, evaluated, save
from zephyr.evaluate.harness.tasks import LoadedTask, load_tasks
from zephyr.models.loading import Source, load
from zephyr.models.placement import placement
from zephyr.models.weight_hash import weights_hash
from zephyr.records.fields import Json

if TYPE_CHECKING:
    from zephyr.evaluate.harness.language_model import ForestLM

_DISTRIBUTIONS = ("lm_eval", "torch", "transformers")
REQUESTS = "requests.sqlite"
# Tasks that are dialogues, so that a chat model is asked in its own template.
_CHAT_TASKS = ("ifeval",)


@dataclass(frozen=True)
class EvalOptions:
    """What is asked for; `names` are tasks and profiles, `out` the folder of the results.

    `max_new_tokens`: the longest answer, for a model whose context has no room for the published one.
    """

    names: tuple[str, ...]
    data: Path | None
    out: Path
    shots: int | None = None
    limit: int | None = None
    chat_template: Literal["auto", "on", "off"] = "auto"
    system: str | None = None
    dtype: str | None = None
    max_tokens: int | None = None
    max_new_tokens: int | None = None
    offline: bool = False


def run(model: str, options: EvalOptions) -> Evaluated:
    """The results of a model; they and every answer are in the folder `out` afterwards."""
    tasks = tasks_of(options)
    # Behind the tasks, which say so where lm-eval is not installed.
    from zephyr.evaluate.harness.answer_lengths import cut_short, refuse_without_room
    from zephyr.evaluate.harness.language_model import ForestLM, longest_sequence

    tasks = {name: cut_short(one, options.max_new_tokens) for name, one in tasks.items()}
    device, usual = placement()
    dtype = options.dtype or usual
    loaded = load(Source(model, offline=options.offline), dtype=dtype, device=device)
    refuse_without_room(tasks, longest_sequence(loaded), model=model)
    identity = weights_hash(loaded.model)
    finished = FinishedRequests(options.out / REQUESTS, of=f"{identity} {dtype}")
    try:
        found = _evaluated(ForestLM(loaded, max_tokens=options.max_tokens, finished=finished), tasks, options)
    finally:
        finished.close()
    facts: dict[str, Json] = {
        "model_hash": identity,
        "dtype": dtype,
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
        **{name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
    }
    name = Path(model).resolve().name if Path(model).is_dir() else model
    told = evaluated(options.names, found, model=name, facts=facts)
    save(told, found, options.out)
    return told


def tasks_of(options: EvalOptions) -> dict[str, LoadedTask]:
    """The tasks with their data. Raises DataError for a name that nothing has, and for data that is not there."""
    if not options.names:
        raise DataError("--tasks", "names no task", "name some, separated by commas")
    if options.data is not None and not options.data.is_dir():
        raise DataError(str(options.data), "there is no such folder", "name the folder with the tasks' data")
    return load_tasks(expand(options.names, options.shots), data_dir=options.data, offline=options.offline)


def _evaluated(model: ForestLM, tasks: dict[str, LoadedTask], options: EvalOptions) -> dict[str, TaskScores]:
    """The scores in the order of the tasks, those with a chat template and those without put to the model in turn."""
    settings = EvaluationSettings(limit=options.limit, system=options.system)
    has_template = bool(model.tokenizer.chat_template)

    def in_chat(name: str) -> bool:
        if options.chat_template == "auto":
            return has_template and name in _CHAT_TASKS
        return options.chat_template == "on"

    found: dict[str, TaskScores] = {}
    for chat in (False, True):
        chosen = {name: one for name, one in tasks.items() if in_chat(name) == chat}
        if chosen:
            found |= evaluate_tasks(model, chosen, replace(settings, chat_template=chat))
    return {name: found[name] for name in tasks}
