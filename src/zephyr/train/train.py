"""Training: the loop from a job to a trained model, logged, evaluated, checked and saved on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from zephyr.atomic import replace_text
from zephyr.errors import RecipeError, did_you_mean
from zephyr.models.batch_scoring import device_of, runs_alone
from zephyr.models.collectives import from_rank_zero, rank
from zephyr.models.token_noise import token_noise
from zephyr.progress import SILENT, Display, show_progress
from zephyr.runs.layout import OUTCOME, TRAIN_LOG
from zephyr.runs.ranks import is_leader
from zephyr.runs.stage_folder import Facts
from zephyr.train.algorithms import averaged, keeps_average, to_average
from zephyr.train.checkpoint.checkpoint import checkpoint_folders, prune_checkpoints, save_checkpoint
from zephyr.train.checkpoint.resume import load_weights
from zephyr.train.checks.health import HealthNote
from zephyr.train.checks.invariants import check_finite
from zephyr.train.checks.movement import EARLY_STEP, check_moved, movement
from zephyr.train.checks.self_check import check_first_step, check_written
from zephyr.train.distributed import pick_device, process_group
from zephyr.train.job import TrainJob
from zephyr.train.metrics import Shares, added, as_line, logged_lines, over_ranks, plain, split_line
from zephyr.train.optimizers import highest_rate, learning_rate_at, on_plateau, set_learning_rate
from zephyr.train.run import TrainRun, start
from zephyr.train.step import Batch, accumulate_gradients, clip_gradients
from zephyr.train.stored_model import StoredModel, write_model

logger = logging.getLogger(__name__)


# What a process that SIGTERM has ended exits with.
TERMINATED = 128 + signal.SIGTERM


class TrainOutcome(NamedTuple):
    """Where a run ended: optimizer steps done, the last training and evaluation lines, notes on its health.

    ``best_step``: the step whose weights the model has, where a metric chose it; the metrics are those of that step.
    None for the last. ``weights_moved``: the share of the trainable weights that differ from those at the start.
    """

    step: int
    train_metrics: dict[str, float]
    eval_metrics: dict[str, float]
    health: tuple[HealthNote, ...]
    best_step: int | None
    num_examples: int
    weights_moved: float

    @property
    def facts(self) -> Facts:
        """The outcome as plain values, to be remembered."""
        chosen: Facts = {} if self.best_step is None else {"weights_of_step": self.best_step}
        return {
            "steps": self.step,
            **chosen,
            "examples": self.num_examples,
            "weights_moved": round(self.weights_moved, 4),
            **{name: round(value, 6) for name, value in (self.train_metrics | self.eval_metrics).items()},
            "health": [dict(note._asdict()) for note in self.health],
        }


def train(job: TrainJob) -> TrainOutcome:
    """Train the job's model, going on from the newest whole checkpoint in its folder if there is one.

    It ends with the weights of the last step, or of the best evaluation by ``metric_for_best_model``. A model in
    memory is trained in place; a stored one is written to its folder, once. On SIGTERM it saves a checkpoint after the
    step at work and exits with 143. Raises ZephyrErrors: for bad inputs before anything expensive runs, and for a step
    whose loss or gradient is not finite before it changes a weight.
    """
    stored = job.model if isinstance(job.model, StoredModel) else None
    if stored is not None and stored.model_folder.exists():
        return _finished(job, stored)
    with nullcontext() if stored is None else process_group(pick_device(), name=stored.folder.name):
        run = start(job)
        job, settings, scorer = run.job, run.job.settings, run.scorer
        shown = show_progress("training", run.steps.num_steps, first_step=run.progress.step)
        sigterm, quiet = _noting_sigterm(run.terminated), nullcontext(SILENT)
        following: Batch | None = None
        with closing(run.tracker), sigterm, shown if rank() == 0 else quiet as display:
            while not run.is_over:
                step = run.progress.step
                batch, following = run.compared(following or run.batch_of_step(step)), None
                alpha, dropout = settings.neftune_noise_alpha, scorer.adapter_dropout
                with scorer.noisy(token_noise(alpha, dropout, batch.rows, seed=job.seed, step=step)):
                    shares = accumulate_gradients(scorer, batch, settings)
                norm = clip_gradients(scorer, settings.max_grad_norm)
                if step + 1 < run.steps.num_steps:  # before the one wait for the device
                    following = run.batch_of_step(step + 1)
                    following.lay_out_first(settings, device_of(scorer))
                total, grad_norm = over_ranks(shares, norm)
                weights = scorer.named_parameters()
                check_finite(float(total.loss), grad_norm, step=step, names=batch.names, parameters=weights)
                if step == 0 and run.rounding is not None:
                    check_first_step(job, scorer, total, batch, rounding=run.rounding)
                lr = learning_rate_at(step, settings, run.steps) * run.progress.lr_factor
                set_learning_rate(run.optimizer, lr)
                run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)
                if run.moving is not None:
                    run.moving.follow(scorer, step + 1)
                run.waiting.append(total)
                run.train_line = {"epoch": run.steps.epoch(step + 1), "grad_norm": grad_norm, "learning_rate": lr}
                seen = run.progress.examples_seen + len(batch.examples)
                run.progress = dataclasses.replace(run.progress, step=step + 1, examples_seen=seen)
                _report(run, display)
        outcome = _ended(run)
        if stored is not None:
            from_rank_zero(lambda: replace_text(stored.folder / OUTCOME, json.dumps(outcome.facts, indent=1)))
            write_model(stored, job.policy, settings, stop_ids=job.stop_ids, probe=job.examples[0])
            if run.rounding is not None:
                check_written(job, scorer, stored, rounding=run.rounding)
    if stored is not None:
        _remove_checkpoints(job.folder)
    return outcome


def _report(run: TrainRun, display: Display) -> None:
    """Do what is due after a step: a log line, an evaluation, a checkpoint."""
    settings, step = run.job.settings, run.progress.step
    is_scheduled_end = step == run.steps.num_steps
    early = run.steps.warmup_steps + EARLY_STEP
    if step == early and (moved := movement(run.scorer, run.weights_before)).largest is not None:
        check_moved(moved, step, run.train_line, of_rate=highest_rate(step, settings, run.steps))
    evaluates = bool(run.job.eval_examples) and (is_scheduled_end or _due(step, settings.eval_steps))
    if is_scheduled_end or evaluates or _due(step, settings.logging_steps):
        run.train_line |= as_line(added(run.waiting), num_steps=len(run.waiting))
        run.waiting.clear()
        if evaluates:
            with averaged(run.optimizer):
                run.eval_line = _evaluate(run)
        line = run.train_line | (run.eval_line if evaluates else {})
        run.tracker.log(step, line)
        for note in run.health.observe({"step": float(step)} | line):
            logger.warning("health, step %d: %s", note.step, note.words)
    display.update(step, run.train_line.get("loss"))
    # What rank 0 says: clocks differ, and all ranks must save together.
    by_clock, terminated = from_rank_zero(lambda: (run.clock.is_due(), run.terminated.is_set()))
    is_best = step == run.progress.best_step
    if run.is_over or is_best or _due(step, settings.save_steps) or by_clock or terminated:
        run.clock.save(lambda: _save(run))
    if terminated and not run.is_over:
        if rank() == 0:
            logger.warning("terminated after step %d, which is saved; the same command continues from there", step)
        raise SystemExit(TERMINATED)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


@contextmanager
def _noting_sigterm(terminated: threading.Event) -> Iterator[None]:
    """Within the block SIGTERM, which ends jobs that are preempted or out of time, sets the event and does no more."""
    if threading.current_thread() is not threading.main_thread():  # which alone may have a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save(run: TrainRun) -> None:
    """Write a checkpoint of this step, and remove those that are not kept."""
    progress = dataclasses.replace(run.progress, notes=plain(run.waiting))
    save_checkpoint(run.job.folder, run.state, progress=progress, identity=run.identity)
    if rank() == 0:
        keep_last = run.job.settings.save_total_limit
        prune_checkpoints(run.job.folder, keep_last=keep_last, best_step=run.progress.best_step)


def _evaluate(run: TrainRun) -> dict[str, float]:
    """The objective's loss and metrics over all evaluation examples, and what the job's samples measure."""
    job, scorer, num_trained = run.job, run.scorer, len(run.job.examples)
    batch = run.compared(run.batch(job.eval_examples, range(num_trained, num_trained + len(job.eval_examples))))
    scored = batch.scored(batch.table(scorer, job.settings))
    shares = Shares(job.objective.loss(scored, batch.totals), job.objective.metrics(scored))
    line = {f"eval_{name}": value for name, value in as_line(shares).items()}
    if job.sample is not None:
        with runs_alone(scorer):
            line |= job.sample(run.progress.step)
    if (watched := job.settings.metric_for_best_model) is not None:
        _keep_best(run, watched, line)
    if job.settings.lr_scheduler_type == "reduce_lr_on_plateau":
        run.progress = on_plateau(run.progress, _watched(line, watched or "eval_loss"), job.settings)
    return line


def _watched(line: dict[str, float], metric: str) -> float:
    """The value of a metric. Raises RecipeError for one that no evaluation gives."""
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    if name not in line:
        nearest = did_you_mean(name, line)
        raise RecipeError("metric_for_best_model", f"no evaluation gives '{metric}'{nearest}", "name another")
    return line[name]


def _keep_best(run: TrainRun, watched: str, line: dict[str, float]) -> None:
    """Note this step as the best if its metric is, and count the evaluations that were no better.

    It counts as transformers' EarlyStoppingCallback does. Raises RecipeError for a metric that no evaluation gives.
    """
    value, settings, progress = _watched(line, watched), run.job.settings, run.progress
    gain = float("inf")
    if progress.best_value is not None:
        gain = (value - progress.best_value) * (1 if settings.prefers_greater else -1)
    if gain > 0:
        run.progress = dataclasses.replace(progress, best_step=progress.step, best_value=value)
    not_better = 0 if gain > settings.early_stopping_threshold else progress.not_better + 1
    run.progress = dataclasses.replace(run.progress, not_better=not_better)


def _ended(run: TrainRun) -> TrainOutcome:
    """The outcome of a run after its last step; the model has the best weights then, if a metric chose them.

    Raises InvariantError where no weight has moved.
    """
    step, best, train_line, eval_line = run.progress.step, run.progress.best_step, run.train_line, run.eval_line
    if step < run.steps.num_steps:
        watched, count = run.job.settings.metric_for_best_model, run.progress.not_better
        logger.warning(
            "stopped early at step %d of %d: %s was no better %d times", step, run.steps.num_steps, watched, count
        )
    if best is not None and best != step:
        load_weights(run.job.folder, best, run.state, with_optimizer=keeps_average(run.optimizer))
        lines = from_rank_zero(lambda: logged_lines(run.job.folder / TRAIN_LOG))
        train_line, eval_line = split_line(next(line for line in lines if line["step"] == best))
    to_average(run.optimizer)
    moved = movement(run.scorer, run.weights_before)
    rate = highest_rate(best or step, run.job.settings, run.steps)
    notes = (*run.health.notes, *check_moved(moved, best or step, train_line, of_rate=rate))
    return TrainOutcome(step, train_line, eval_line, notes, best, len(run.job.examples), moved.share)


def _finished(job: TrainJob, stored: StoredModel) -> TrainOutcome:
    """The outcome of an earlier call that has written the model; an empty one on ranks other than 0."""
    if not is_leader():  # rank 0 may already have moved the folder
        return TrainOutcome(0, {}, {}, (), None, len(job.examples), 0.0)
    _remove_checkpoints(job.folder)
    facts = json.loads((stored.folder / OUTCOME).read_bytes())
    step, best, num_examples = facts.pop("steps"), facts.pop("weights_of_step", None), facts.pop("examples")
    health, moved = tuple(HealthNote(**note) for note in facts.pop("health")), facts.pop("weights_moved")
    return TrainOutcome(step, *split_line(facts), health, best, num_examples, moved)


def _remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training whose model is written: nothing resumes from them."""
    if is_leader():
        for checkpoint in checkpoint_folders(folder):
            shutil.rmtree(checkpoint, ignore_errors=True)
