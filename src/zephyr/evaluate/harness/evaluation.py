"""A model's scores on lm-eval's tasks, each with what it must be read with: version, shots, template, data.

lm-eval builds the prompts and judges the answers; the model class answers on prefix trees and remembers what it has
answered, so an evaluation that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from zephyr.errors import ModelError
from zephyr.evaluate.harness.scores import Score, Value, score_of
from zephyr.evaluate.harness.tasks import HarnessTask, LoadedTask
from zephyr.records.fields import Json

if TYPE_CHECKING:
    from zephyr.evaluate.harness.language_model import ForestLM

# lm-eval's own seeds, from which its random shots follow.
PYTHON_SEED, NUMPY_SEED, TORCH_SEED = 0, 1234, 1234
# What a prompt consists of; functions are kept as their source.
_PROMPT_KEYS = (
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
)


@dataclass(frozen=True)
class EvaluationSettings:
    """How tasks are put to the model; `limit`: only so many documents of each, for a trial."""

    limit: int | None = None
    chat_template: bool = False
    system: str | None = None
    seed: int = 0


class TaskScores(NamedTuple):
    """A task's scores by metric, what they were measured with, and what every document gave.

    `asked_as`: the name of the group that brought the task in, or its own.
    """

    asked_as: str
    scores: dict[str, Score]
    circumstances: dict[str, Json]
    samples: list[dict[str, Json]]


def evaluate_tasks(
    model: ForestLM, tasks: Mapping[str, LoadedTask], settings: EvaluationSettings
) -> dict[str, TaskScores]:
    """The scores of every task. Raises ModelError if the model has no chat template and one is wanted."""
    from lm_eval.evaluator import evaluate  # type: ignore[import-untyped]

    if settings.chat_template and not model.tokenizer.chat_template:
        remedy = "name a chat model, or leave the template off with --chat-template off"
        raise ModelError(model.tokenizer_name, "its tokenizer has no chat template", remedy)
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)  # noqa: NPY002 - tasks draw from the global generator
    torch.manual_seed(TORCH_SEED)
    found = evaluate(
        lm=model,
        task_dict={"tasks": {name: one.task for name, one in tasks.items()}, "groups": {}, "group_map": {}},
        limit=settings.limit,
        bootstrap_iters=0,
        log_samples=True,
        system_instruction=settings.system,
        apply_chat_template=settings.chat_template,
        fewshot_as_multiturn=settings.chat_template,
    )
    return {
        name: TaskScores(
            asked_as=loaded.asked_as,
            scores=_scores(found["results"][name], found["samples"][name], seed=settings.seed),
            circumstances=_circumstances(loaded, model, settings),
            samples=[_sample(sample) for sample in found["samples"][name]],
        )
        for name, loaded in tasks.items()
    }


def _scores(results: Mapping[str, object], samples: Sequence[Mapping[str, object]], *, seed: int) -> dict[str, Score]:
    """The score of each metric and filter; a filter is named where there is a choice."""
    scores: dict[str, Score] = {}
    for key, value in results.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        values = [sample[metric] for sample in samples if sample["filter"] == chosen and metric in sample]
        name = metric if chosen == "none" else f"{metric}/{chosen}"
        scores[name] = Score(float(value), None, None, None, len(values))
        if values and all(_is_value(one) for one in values):
            score = score_of(cast("list[Value]", values), seed=seed)
            # What lm-eval aggregates otherwise than by the mean (a perplexity) has no interval of a mean.
            scores[name] = score if abs(score.score - value) < 1e-6 else scores[name]
    return scores


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, int | float) for one in value)
    return isinstance(value, int | float)


def _circumstances(loaded: LoadedTask, model: ForestLM, settings: EvaluationSettings) -> dict[str, Json]:
    task = loaded.task
    config = cast("dict[str, Json]", task.config.to_dict())
    prompt: dict[str, Json] = {key: _plain(config[key]) for key in _PROMPT_KEYS if config.get(key) not in (None, "")}
    template = str(model.tokenizer.chat_template) if settings.chat_template else None
    origin = f"{task.config.dataset_path} {task.config.dataset_name or ''}".strip()
    return {
        "version": _plain(cast("Json", task.VERSION)),
        "num_fewshot": task.config.num_fewshot,
        "limit": settings.limit,
        "data": f"local copy of {origin}" if loaded.is_local else origin,
        "data_sha256": data_hash(task),
        "prompt": prompt,
        "prompt_sha256": _hash(prompt),
        "chat_template": settings.chat_template,
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "system": settings.system,
        "deviations": list(loaded.deviations),
    }


def data_hash(task: HarnessTask) -> str:
    """SHA-256 over the documents that are asked and those that shots are drawn from, in their order."""
    digest = hashlib.sha256()
    for docs in (task.eval_docs, task.fewshot_docs()):
        for doc in docs:
            digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _sample(sample: Mapping[str, object]) -> dict[str, Json]:
    """A document's number, hashes, answers and values; its text stays with its data set."""
    metrics = cast("list[str]", sample["metrics"])
    answers = cast("Iterable[object]", sample["filtered_resps"])
    return {
        "document": cast("Json", sample["doc_id"]),
        "filter": cast("Json", sample["filter"]),
        "document_hash": cast("Json", sample["doc_hash"]),
        "prompt_hash": cast("Json", sample["prompt_hash"]),
        "answers": [_plain(one) for one in answers],
        "metrics": {name: _plain(sample[name]) for name in metrics},
    }


def _plain(value: object) -> Json:
    """The value as JSON can say it: numpy's numbers as Python's, tuples as lists, all else as text."""
    if isinstance(value, np.generic):
        return cast("Json", value.item())
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _hash(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
