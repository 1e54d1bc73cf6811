"""A model's scores on lm-eval's tasks, each with what it must be read with: version, shots, template, data.

lm-eval builds the prompts and judges the answers; the model class answers on prefix trees and remembers what it has
answered, so an evaluation that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from zephyr.errors import ModelError
from zephyr.evaluation.harness.tasks import LmEvalTask, LoadedTask
from zephyr.intervals import NORMAL_95, mean_within, wilson
from zephyr.records.fields import Json

if TYPE_CHECKING:
    from zephyr.evaluation.harness.language_model import ForestLM

# lm-eval's own seeds, from which its random shots follow.
PYTHON_SEED, NUMPY_SEED, TORCH_SEED = 0, 1234, 1234
BOOTSTRAP_SEED = 0  # of our intervals
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


FAMILY_METRIC = "inst_level_strict_acc"  # of IFEval
# Of one document: a number, or several (IFEval's instructions of a prompt).
_Value = float | Sequence[float]


class Score(NamedTuple):
    """A mean over `n` documents with its standard error and 95 % interval, which are None for what is no mean."""

    score: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int


class TaskScores(NamedTuple):
    """A task's scores by metric, the protocol they were measured by, and the answers and values of every document.

    `requested_as`: the name of the group that brought the task in, or its own.
    """

    requested_as: str
    scores: dict[str, Score]
    protocol: dict[str, Json]
    samples: list[dict[str, Json]]


class Prompting(NamedTuple):
    """How tasks are put to a model. `limit`: documents of each task, for a trial; `system`: a system message."""

    chat_template: bool = False
    limit: int | None = None
    system: str | None = None


def evaluate_tasks(model: ForestLM, tasks: Mapping[str, LoadedTask], prompting: Prompting) -> dict[str, TaskScores]:
    """The scores of every task. Raises ModelError if the model has no chat template and one is wanted."""
    from lm_eval.evaluator import evaluate  # type: ignore[import-untyped]

    if prompting.chat_template and not model.tokenizer.chat_template:
        remedy = "name a chat model, or leave the template off with --chat-template off"
        raise ModelError(model.tokenizer_name, "its tokenizer has no chat template", remedy)
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)  # noqa: NPY002 - tasks draw from the global generator
    torch.manual_seed(TORCH_SEED)
    with _without_bars():
        found = evaluate(
            lm=model,
            task_dict={"tasks": {name: one.task for name, one in tasks.items()}, "groups": {}, "group_map": {}},
            limit=prompting.limit,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=prompting.system,
            apply_chat_template=prompting.chat_template,
            fewshot_as_multiturn=prompting.chat_template,
        )
    return {
        name: TaskScores(
            requested_as=loaded.requested_as,
            scores=_scores(found["results"][name], found["samples"][name]) | family_scores(found["samples"][name]),
            protocol=_protocol(name, loaded, model, prompting),
            samples=[_sample(sample) for sample in found["samples"][name]],
        )
        for name, loaded in tasks.items()
    }


@contextmanager
def _without_bars() -> Iterator[None]:
    """lm-eval without the bar that it draws for every task while it writes prompts, between our own lines."""
    from lm_eval.api import task as module  # type: ignore[import-untyped]

    drawn = module.tqdm
    module.tqdm = partial(drawn, disable=True)
    try:
        yield
    finally:
        module.tqdm = drawn


def _scores(results: Mapping[str, object], samples: Sequence[Mapping[str, object]]) -> dict[str, Score]:
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
            score = score_of(cast("list[_Value]", values), seed=BOOTSTRAP_SEED)
            # What lm-eval aggregates otherwise than by the mean (a perplexity) has no interval of a mean.
            scores[name] = score if abs(score.score - value) < 1e-6 else scores[name]
    return scores


def family_scores(samples: Sequence[Mapping[str, object]]) -> dict[str, Score]:
    """IFEval's strict accuracy by instruction, in each group of families: those trained on beside those held out.

    Of other tasks nothing. arXiv 2311.07911.
    """
    by_group: dict[str, list[list[float]]] = {}
    for sample in samples:
        doc, verdicts = sample["doc"], sample.get(FAMILY_METRIC)
        names = doc.get("instruction_id_list") if isinstance(doc, Mapping) else None
        if names is None or not isinstance(verdicts, list):
            continue
        own: dict[str, list[float]] = {}
        for name, verdict in zip(names, verdicts, strict=True):
            own.setdefault(str(name).partition(":")[0], []).append(float(verdict))
        for group, values in own.items():
            by_group.setdefault(group, []).append(values)
    return {
        f"{FAMILY_METRIC}/{group}": score_of(values, seed=BOOTSTRAP_SEED) for group, values in sorted(by_group.items())
    }


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, int | float) for one in value)
    return isinstance(value, int | float)


def _protocol(name: str, loaded: LoadedTask, model: ForestLM, prompting: Prompting) -> dict[str, Json]:
    task = loaded.task
    config = cast("dict[str, Json]", task.config.to_dict())
    prompt: dict[str, Json] = {key: _plain(config[key]) for key in _PROMPT_KEYS if config.get(key) not in (None, "")}
    template = str(model.tokenizer.chat_template) if prompting.chat_template else None
    origin = f"{task.config.dataset_path} {task.config.dataset_name or ''}".strip()
    num_thinking = model.num_thinking[name]
    thought = [f"{num_thinking:,} answers began with thinking, which is not scored"] if num_thinking else []
    return {
        "version": _plain(cast("Json", task.VERSION)),
        "num_fewshot": task.config.num_fewshot,
        "limit": prompting.limit,
        "data": f"local copy of {origin}" if loaded.is_local else origin,
        "data_sha256": data_hash(task),
        "prompt": prompt,
        "prompt_sha256": _hash(prompt),
        "chat_template": prompting.chat_template,
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "system": prompting.system,
        "thinking": bool(num_thinking),
        "deviations": [*loaded.deviations, *thought],
    }


def data_hash(task: LmEvalTask) -> str:
    """SHA-256 over the documents that are evaluated and those that shots are drawn from, in their order."""
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


def score_of(values: Sequence[_Value], *, seed: int) -> Score:
    """The mean over all values; documents are what is drawn, so values of one document stand or fall together.

    Wilson's interval where every value is 0 or 1, that of `mean_within` where not.
    """
    lists = [list(value) if isinstance(value, Sequence) else [float(value)] for value in values]
    flat = np.asarray([one for row in lists for one in row], dtype=np.float64)
    alone = all(len(row) == 1 for row in lists)
    if alone and bool(np.isin(flat, (0.0, 1.0)).all()):
        estimate = wilson(int(flat.sum()), len(flat))
    else:
        groups = [number for number, row in enumerate(lists) for _ in row]
        within = (min(0.0, float(flat.min())), max(1.0, float(flat.max())))
        estimate = mean_within(flat.tolist(), within, seed=seed, groups=groups)
    if alone and float(np.ptp(flat)) > 0:
        error = float(flat.std(ddof=1)) / math.sqrt(len(flat))
    else:
        error = (estimate.high - estimate.low) / (2 * NORMAL_95)
    return Score(estimate.score, error, estimate.low, estimate.high, len(lists))


def of_group(members: Mapping[str, Score]) -> dict[str, Score]:
    """The scores of a group of tasks: the mean of its members, and the mean of all their documents."""
    scores = list(members.values())
    sizes = np.asarray([one.n for one in scores], dtype=np.float64)
    return {
        "mean_of_subjects": _weighted(scores, np.full(len(scores), 1 / len(scores))),
        "mean_of_questions": _weighted(scores, sizes / sizes.sum()),
    }


def _weighted(scores: Sequence[Score], weights: np.typing.NDArray[np.float64]) -> Score:
    mean = float(np.dot(weights, [one.score for one in scores]))
    error = math.sqrt(sum((w * (one.standard_error or 0.0)) ** 2 for w, one in zip(weights, scores, strict=True)))
    half, n = NORMAL_95 * error, sum(one.n for one in scores)
    return Score(mean, error, max(0.0, mean - half), min(1.0, mean + half), n)
