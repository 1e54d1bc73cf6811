"""The training loop: from a job to a trained model, logged, evaluated, checked and saved on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from zephyr.errors import RecipeError, did_you_mean
from zephyr.models.batch_scoring import score_table
from zephyr.models.collectives import from_rank_zero, rank
from zephyr.progress import SILENT, Display, show_progress
from zephyr.recipe.steps import Steps, count_steps
from zephyr.recipe.train_section import TrainSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train.checkpoint.checkpoint import Progress, TrainingState, prune_checkpoints, save_checkpoint
from zephyr.train.checkpoint.resume import load_latest, load_weights
from zephyr.train.checkpoint.timer import SaveClock
from zephyr.train.checks.health import HealthMonitor, HealthNote
from zephyr.train.checks.invariants import check_finite
from zephyr.train.checks.self_check import check_before_training, check_first_step
from zephyr.train.distributed import full_value, runs_alone
from zephyr.train.job import Examples, Prepared, TrainJob, prepare
from zephyr.train.metrics import Shares, added, as_line, over_ranks, plain, shares_of
from zephyr.train.moving_reference import MovingReference, moving_reference
from zephyr.train.optimizers import build_optimizer
from zephyr.train.schedules import learning_rate_at
from zephyr.train.step import Batch, accumulate_gradients, step_indices
from zephyr.train.tracker import NOWHERE, Run, Tracker, open_trackers

logger = logging.getLogger(__name__)


class TrainOutcome(NamedTuple):
    """Where a run ended: optimizer steps done, the last training and evaluation lines, notes on its health.

    ``best_step``: the step whose weights the model has, where a metric chose it; None for the last.
    """

    step: int
    train_metrics: dict[str, float]
    eval_metrics: dict[str, float]
    health: tuple[HealthNote, ...]
    best_step: int | None = None


@dataclass
class _Run:
    """A run in progress: what its steps read, and how far it has come."""

    job: TrainJob
    prepared: Prepared
    optimizer: Optimizer
    steps: Steps
    tracker: Tracker
    progress: Progress
    health: HealthMonitor
    clock: SaveClock
    moving: MovingReference | None = None
    waiting: list[Shares] = field(default_factory=list)
    train_line: dict[str, float] = field(default_factory=dict)
    eval_line: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> TrainSection:
        return self.job.settings

    @property
    def state(self) -> TrainingState:
        """What a checkpoint holds."""
        return _state(self.prepared, self.optimizer, self.moving)

    def batch(self, examples: Examples, indices: Sequence[int]) -> Batch:
        """Some examples as a batch, with the log-probs of the reference as it is at this step."""
        engine = self.prepared.engine
        batch = examples.batch(engine.objective, indices)
        if self.moving is None or not self.moving.has_moved(self.progress.step):
            return batch
        return dataclasses.replace(batch, ref_logps=self.moving.logps(engine, batch.rows))


def train(job: TrainJob) -> TrainOutcome:
    """Train the job's model in place, going on from the newest whole checkpoint in its folder if there is one.

    It ends with the weights of the last step, or of the best evaluation by ``metric_for_best_model``.
    """
    _seed(job.seed)
    prepared = prepare(job)
    if job.settings.self_checks:
        check_before_training(job, prepared)
    run = _begin(job, prepared)
    shown = show_progress("training", run.steps.num_steps, first_step=run.progress.step)
    with closing(run.tracker), shown if rank() == 0 else nullcontext(SILENT) as display:
        for step in range(run.progress.step, run.steps.num_steps):
            _step(run, step)
            _report(run, display)
    best = run.progress.best_step
    if best is not None and best != run.progress.step:
        load_weights(job.folder, best, prepared.engine.scorer)
    return TrainOutcome(run.progress.step, run.train_line, run.eval_line, tuple(run.health.notes), best)


def _begin(job: TrainJob, prepared: Prepared) -> _Run:
    """The run at its first step, or where its newest checkpoint stands."""
    settings = job.settings
    steps = count_steps(settings, len(job.examples))
    optimizer = build_optimizer(prepared.engine.scorer, settings)
    moving = moving_reference(job.objective, prepared.engine.scorer, job.reference)
    state = _state(prepared, optimizer, moving)
    resumed = load_latest(job.folder, state, identity=prepared.identity)
    config = settings.model_dump() | {"seed": job.seed, "shuffle": job.shuffle}
    tracked = Run(job.folder, job.folder.name, config, resumed.step if resumed else None)
    tracker = open_trackers(settings.report_to, tracked) if rank() == 0 else NOWHERE
    past = _logged_lines(job.folder / TRAIN_LOG)  # as the tracker has left them, up to the checkpoint
    last = past[-1] if past and resumed and resumed.step == steps.num_steps else {}
    return _Run(
        job=job,
        prepared=prepared,
        optimizer=optimizer,
        steps=steps,
        tracker=tracker,
        progress=resumed or Progress(step=0),
        health=HealthMonitor(past),
        clock=SaveClock(settings.save_seconds),
        moving=moving,
        waiting=shares_of(resumed.notes) if resumed else [],
        train_line={name: value for name, value in last.items() if name != "step" and not _is_measured(name)},
        eval_line={name: value for name, value in last.items() if _is_measured(name)},
    )


def _state(prepared: Prepared, optimizer: Optimizer, moving: MovingReference | None) -> TrainingState:
    return TrainingState(prepared.engine.scorer, optimizer, {} if moving is None else moving.tensors)


def _step(run: _Run, step: int) -> None:
    """One optimizer step, stopped before it changes a weight if loss or gradient are not finite."""
    engine, settings = run.prepared.engine, run.settings
    batch = run.batch(run.prepared.train, step_indices(run.steps, step, seed=run.job.seed, shuffle=run.job.shuffle))
    shares = accumulate_gradients(engine, batch)
    parameters = [p for p in engine.scorer.parameters() if p.grad is not None]
    limit = float("inf") if settings.max_grad_norm is None else settings.max_grad_norm
    grad_norm = full_value(clip_grad_norm_(parameters, limit))
    total = over_ranks(shares)
    check_finite(
        float(total.loss),
        grad_norm,
        step=step,
        names=batch.names,
        parameters=engine.scorer.named_parameters(),
    )
    if step == 0 and settings.self_checks:
        check_first_step(run.job, engine, total, batch)
    lr = learning_rate_at(step, settings, run.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    if run.moving is not None:
        run.moving.follow(engine.scorer, step + 1)
    run.waiting.append(total)
    run.train_line = {"epoch": run.steps.epoch(step + 1), "grad_norm": grad_norm, "learning_rate": lr}
    run.progress = dataclasses.replace(
        run.progress, step=step + 1, examples_seen=run.progress.examples_seen + len(batch.examples)
    )


def _report(run: _Run, display: Display) -> None:
    """What is due after a step: a log line, an evaluation, a checkpoint."""
    settings, step = run.settings, run.progress.step
    is_last = step == run.steps.num_steps
    evaluates = run.prepared.evaluation is not None and (is_last or _due(step, settings.eval_steps))
    if is_last or evaluates or _due(step, settings.logging_steps):
        run.train_line |= as_line(added(run.waiting), num_steps=len(run.waiting))
        run.waiting.clear()
        if evaluates:
            run.eval_line = _evaluate(run)
        line = run.train_line | (run.eval_line if evaluates else {})
        run.tracker.log(step, line)
        _watch_health(run, {"step": float(step)} | line)
    display.update(step, run.train_line.get("loss"))
    is_best = step == run.progress.best_step
    if is_last or is_best or _due(step, settings.save_steps) or _due_by_clock(run):
        run.clock.save(lambda: _save(run))


def _save(run: _Run) -> None:
    progress = dataclasses.replace(run.progress, notes=plain(run.waiting))
    save_checkpoint(run.job.folder, run.state, progress=progress, identity=run.prepared.identity)
    if rank() == 0:
        best = run.progress.best_step
        prune_checkpoints(run.job.folder, keep_last=run.settings.save_total_limit, best_step=best)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _due_by_clock(run: _Run) -> bool:
    """What the clock of rank 0 says: those of the others differ, and all must save together."""
    return not run.clock.is_off and from_rank_zero(run.clock.is_due)


def _evaluate(run: _Run) -> dict[str, float]:
    """The objective's loss and metrics over all evaluation examples, and what the job's samples measure."""
    engine, examples = run.prepared.engine, run.prepared.evaluation
    assert examples is not None
    batch = run.batch(examples, range(len(examples.examples)))
    table = score_table(engine.scorer, batch.rows, max_tokens=engine.max_tokens, device=engine.device)
    scored = batch.scored(table)
    shares = Shares(engine.objective.loss(scored, batch.totals), engine.objective.metrics(scored))
    line = {f"eval_{name}": value for name, value in as_line(shares).items()}
    if run.job.sample is not None:
        with runs_alone(engine.scorer):
            line |= run.job.sample(run.progress.step)
    watched = run.settings.metric_for_best_model
    if watched is not None:
        _keep_best(run, watched, line)
    return line


def _keep_best(run: _Run, watched: str, line: dict[str, float]) -> None:
    """Note this step as the best if its metric is."""
    name = watched if watched.startswith("eval_") else f"eval_{watched}"
    if name not in line:
        nearest = did_you_mean(name, line)
        raise RecipeError("metric_for_best_model", f"no evaluation gives '{watched}'{nearest}", "name another")
    value, best = line[name], run.progress.best_value
    if best is None or (value > best if run.settings.greater_is_better else value < best):
        run.progress = dataclasses.replace(run.progress, best_step=run.progress.step, best_value=value)


def _watch_health(run: _Run, line: dict[str, float]) -> None:
    for note in run.health.observe(line):
        logger.warning("health, step %d: %s", note.step, note.words)


def _is_measured(name: str) -> bool:
    """Whether an evaluation gives it."""
    return name.startswith(("eval_", "generations/"))


def _logged_lines(path: Path) -> list[dict[str, float]]:
    """The lines a resumed run has logged before."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if isinstance(v, int | float)} for line in lines]


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # what libraries draw from
    torch.manual_seed(seed)
