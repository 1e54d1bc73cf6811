"""Our side of a benchmark, through the pieces of the training loop; run as ``ours.py TASK RESULT``."""

import sys
import time
from itertools import pairwise

import numpy as np
import torch
from machine import peak_rss_bytes
from task import Pair, Run, Task
from torch.nn.utils import clip_grad_norm_

from zephyr.models.loading import Source, load_model
from zephyr.models.scorer import ForestScorer
from zephyr.train.examples import Comparison, Dialogue, Example
from zephyr.train.objectives import Objective, build_objective
from zephyr.train.optimizers import build_optimizer
from zephyr.train.settings import TrainSettings
from zephyr.train.step import Engine, accumulate_gradients, make_batch
from zephyr.train.tables import score_table


def example(number: int, pair: Pair, objective: str) -> Example:
    """The pair as the objective wants it: SFT learns the whole chosen sequence, prompt included."""
    prompt, chosen, rejected = (np.array(ids, dtype=np.int64) for ids in pair)
    if objective == "sft":
        ids = np.concatenate([prompt, chosen])
        return Dialogue(f"pair {number}", ids, np.arange(len(ids)) > 0)
    return Comparison(f"pair {number}", prompt, (chosen, rejected), (1.0, 0.0))


def build(task: Task) -> Objective:
    """The task's objective with the options that TRL's defaults have."""
    return build_objective(task.objective, {} if task.objective == "sft" else {"beta": task.beta})


def main(task_path: str, result_path: str) -> None:
    """Train one epoch of the task and write losses, seconds and peak memory."""
    task = Task.load(task_path)
    torch.set_num_threads(task.threads)
    device = torch.device(task.device)
    scorer = ForestScorer(load_model(Source(task.model_folder, offline=True), dtype=task.dtype, device=task.device))
    scorer.train()
    engine = Engine(scorer, build(task), task.max_unique_tokens, device)
    settings = TrainSettings(
        learning_rate=task.learning_rate,
        lr_scheduler_type="constant",
        train_batch_size=task.pairs_per_step,
        max_tokens_per_micro_batch=task.max_unique_tokens,
    )
    optimizer = build_optimizer(scorer, settings)
    examples = [example(number, pair, task.objective) for number, pair in enumerate(task.pairs())]
    start = time.perf_counter()
    references = None
    if engine.objective.needs_reference:
        rows = [engine.objective.sequences(example) for example in examples]
        references = score_table(scorer, rows, max_tokens=task.max_unique_tokens, device=device).logps
    ticks, losses = [time.perf_counter()], []
    for first in range(0, len(examples), task.pairs_per_step):
        here = slice(first, first + task.pairs_per_step)
        batch = make_batch(engine.objective, examples[here], None if references is None else references[here])
        losses.append(sum(float(share.loss) for share in accumulate_gradients(engine, batch)))
        clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ticks.append(time.perf_counter())
    Run(
        losses=losses,
        step_seconds=[end - begin for begin, end in pairwise(ticks)],
        reference_seconds=ticks[0] - start,
        peak_rss_bytes=peak_rss_bytes(),
        peak_device_bytes=torch.accelerator.max_memory_allocated() if task.device != "cpu" else 0,
        settings={"max_tokens_per_micro_batch": task.max_unique_tokens},
    ).save(result_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
