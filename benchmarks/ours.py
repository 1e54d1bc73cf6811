"""Our side of a benchmark: ``zephyr.train.train.train`` on the same ids; run as ``ours.py TASK RESULT``."""

import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from machine import peak_device_bytes, peak_rss_bytes, reset_peak_memory
from task import SIMPO_BETA, SIMPO_MARGIN, Pair, Run, Task, labelled_answers
from torch.optim.optimizer import register_optimizer_step_post_hook

from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.models.adapters import load_adapter
from zephyr.models.loading import load_model
from zephyr.models.source import Source
from zephyr.recipe.objective_section import DpoObjective, KtoObjective, OrpoObjective, SftObjective, SimpoObjective
from zephyr.recipe.train_section import Precision, TrainSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train.job import TrainJob
from zephyr.train.objectives import build_objective
from zephyr.train.train import train

PRECISIONS: dict[str, Precision] = {"float32": "float32", "bfloat16": "pure_bf16"}


def examples(task: Task, pairs: list[Pair]) -> list[Example]:
    """The pairs as the objective wants them: SFT learns the whole chosen sequence, prompt included."""
    if task.objective == "kto":
        answers = labelled_answers(pairs, task.pairs_per_step)
        return [
            Comparison(f"answer {number}", np.array(prompt), (np.array(answer),), (float(is_chosen),))
            for number, (prompt, answer, is_chosen) in enumerate(answers)
        ]
    return [example(number, pair, task.objective) for number, pair in enumerate(pairs)]


def example(number: int, pair: Pair, objective: str) -> Example:
    """The pair as one example."""
    prompt, chosen, rejected = (np.array(ids, dtype=np.int64) for ids in pair)
    if objective == "sft":
        ids = np.concatenate([prompt, chosen])
        return Dialogue(f"pair {number}", ids, np.arange(len(ids)) > 0)
    return Comparison(f"pair {number}", prompt, (chosen, rejected), (1.0, 0.0))


def job(task: Task, pairs: list[Pair], folder: Path) -> TrainJob:
    """One epoch over ``pairs`` in their order from the task's weights, options as TRL's defaults have them."""
    settings = TrainSection(
        learning_rate=task.learning_rate,
        train_batch_size=task.pairs_per_step * (2 if task.objective == "kto" else 1),
        max_tokens_per_micro_batch=task.max_unique_tokens,
        lr_scheduler_type="constant",
        precision="bf16" if task.autocast else PRECISIONS[task.dtype],
        logging_steps=1,
        save_seconds=None,
        self_checks=task.self_checks,
    )
    objectives = {
        "sft": SftObjective(loss_on="everything"),
        "dpo": DpoObjective(beta=task.beta),
        "orpo": OrpoObjective(beta=task.beta),
        "simpo": SimpoObjective(beta=SIMPO_BETA, gamma_beta_ratio=SIMPO_MARGIN),
        "kto": KtoObjective(beta=task.beta),
    }
    model = load_model(Source(task.model_folder, offline=True), dtype=task.dtype, device=task.device)
    if task.adapter_folder:
        model = load_adapter(model, Path(task.adapter_folder), trainable=True)
    return TrainJob(
        model=model,
        objective=build_objective(objectives[task.objective]),
        settings=settings,
        examples=examples(task, pairs),
        folder=folder,
        shuffle=False,
    )


def trained(task: Task, pairs: list[Pair], ticks: list[float]) -> tuple[list[float], TrainSection]:
    """The losses of one epoch over ``pairs``; ``ticks`` starts anew when training does."""
    with tempfile.TemporaryDirectory() as temporary:
        training = job(task, pairs, Path(temporary))
        ticks[:] = [time.perf_counter()]
        train(training)
        lines = (training.folder / TRAIN_LOG).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines], training.settings


def main(task_path: str, result_path: str) -> None:
    """Train one epoch of the task and write losses, seconds and peak memory."""
    task = Task.load(task_path)
    torch.set_num_threads(task.threads)
    ticks: list[float] = []

    def tick(*_: object) -> None:
        if task.device != "cpu":
            torch.accelerator.synchronize()
        ticks.append(time.perf_counter())

    register_optimizer_step_post_hook(tick)
    if task.warm_up_steps:
        trained(task, task.pairs()[: task.warm_up_steps * task.pairs_per_step], ticks)
    reset_peak_memory(task.device)
    losses, settings = trained(task, task.pairs(), ticks)
    Run(
        losses=losses,
        step_seconds=[end - start for start, end in pairwise(ticks)],
        peak_rss_bytes=peak_rss_bytes(),
        peak_device_bytes=peak_device_bytes(task.device),
        settings={key: str(value) for key, value in vars(settings).items()},
    ).save(result_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
