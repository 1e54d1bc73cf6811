"""One side of the evaluation benchmark, in a process of its own: ``eval_side.py ours|peer TASK RESULT``.

Both sides build the same requests with lm-eval from the same local data; only the class that answers them differs.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import torch
from machine import peak_rss_bytes

from zephyr.evaluation.harness.profiles import Wanted
from zephyr.evaluation.harness.tasks import build_requests, load_tasks


@dataclass(frozen=True)
class EvalTask:
    """Everything that must be equal on both sides, and each side's own switch."""

    task: str
    members: list[str]  # the tasks that are run: subjects, for MMLU
    shots: int
    limit: int  # documents of each member
    model_folder: str
    data_folder: str
    threads: int
    max_tokens: int = 0  # unique tokens of one of our forests; 0: by the longest request
    peer_batch_size: int = 1
    max_new_tokens: int = 0  # of an answer that is written, instead of the task's own

    def save(self, path: Path) -> None:
        """Write the task as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The task that ``save`` wrote."""
        return cls(**json.loads(Path(path).read_text()))


@dataclass(frozen=True)
class EvalRun:
    """One side's answers and what they took.

    ``documents``: the log-likelihoods of each document's choices. ``greedy``: whether greedy decoding gives them.
    ``answers``: the texts of a task whose answers are written; such a task has no choices.
    """

    documents: list[list[float]]
    greedy: list[list[bool]]
    lengths: list[list[int]]  # of the choices, in characters
    load_seconds: float
    seconds: float  # from requests as texts to the last log-likelihood
    peak_rss_bytes: int
    answers: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The measurement that a side wrote."""
        return cls(**json.loads(path.read_text()))


def our_model(task: EvalTask):
    """Our class, loaded as ``zephyr eval`` loads it."""
    from zephyr.evaluation.harness.language_model import ForestLM
    from zephyr.models.loading import load
    from zephyr.models.source import Source

    loaded = load(Source(task.model_folder, offline=True), dtype="float32")
    return ForestLM(loaded, max_tokens=task.max_tokens or None)


def peer_model(task: EvalTask):
    """lm-eval's own class for transformers models."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=task.model_folder, dtype="float32", device="cpu", batch_size=task.peer_batch_size)


def written_answers(model, requests, max_new_tokens: int) -> list[str]:
    """The answers to requests whose answers are written, by greedy decoding as the tasks ask for it."""
    for request in requests:
        context, options = request.args
        request.arguments = (context, {**options, "max_gen_toks": max_new_tokens or options["max_gen_toks"]})
    return model.generate_until(requests)


def main(side: str, task_path: str, result_path: str) -> None:
    """Answer the requests and write answers or log-likelihoods, seconds and peak memory."""
    task = EvalTask.load(task_path)
    torch.set_num_threads(task.threads)
    wanted = [Wanted(name, task.shots) for name in task.members]
    loaded = load_tasks(wanted, data_dir=Path(task.data_folder), offline=True)
    requests = build_requests([one.task for one in loaded.values()], limit=task.limit)
    start = time.perf_counter()
    model = our_model(task) if side == "ours" else peer_model(task)
    begin = time.perf_counter()
    writes = all(request.request_type == "generate_until" for request in requests)
    written = written_answers(model, requests, task.max_new_tokens) if writes else []
    answers = [] if writes else model.loglikelihood(requests)
    seconds = time.perf_counter() - begin
    documents: dict[tuple[str, int], list[tuple[float, bool, int]]] = {}
    for request, (logp, greedy) in zip([] if writes else requests, answers, strict=True):
        row = documents.setdefault((request.task_name, request.doc_id), [])
        row.append((float(logp), bool(greedy), len(request.args[1].strip())))
    rows = list(documents.values())
    run = EvalRun(
        documents=[[one[0] for one in row] for row in rows],
        greedy=[[one[1] for one in row] for row in rows],
        lengths=[[one[2] for one in row] for row in rows],
        load_seconds=begin - start,
        seconds=seconds,
        peak_rss_bytes=peak_rss_bytes(),
        answers=written,
    )
    Path(result_path).write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main(*sys.argv[1:])
