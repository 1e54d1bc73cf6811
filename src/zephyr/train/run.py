"""A training run: what its steps read and how far it has come, from its first step or its newest checkpoint on."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from zephyr.data.tokenize.token_store import Example
from zephyr.models.collectives import rank
from zephyr.models.rounding import Rounding
from zephyr.models.scorer import ForestScorer
from zephyr.recipe.steps import Steps, check_warmup, count_steps
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train.checkpoint.checkpoint import Identity, Progress, SaveClock, TrainingState
from zephyr.train.checkpoint.resume import load_latest
from zephyr.train.checks.health import HealthMonitor
from zephyr.train.checks.movement import sample_weights
from zephyr.train.checks.self_check import check_before_training, proven_ref_logps
from zephyr.train.job import TrainJob, build_scorer, check_job, identity_of, model_hashes
from zephyr.train.metrics import Shares, logged_lines, shares_of, split_line
from zephyr.train.moving_reference import MovingReference, moving_reference
from zephyr.train.optimizers import build_optimizer
from zephyr.train.step import Batch, make_batch, step_indices
from zephyr.train.stored_model import StoredModel, open_model, open_reference, sampler
from zephyr.train.tracker import NOWHERE, Run, Tracker, open_trackers


@dataclass
class TrainRun:
    """A run in progress: what its steps read, and how far it has come. All that ``train`` changes."""

    job: TrainJob
    scorer: ForestScorer
    ref_logps: Tensor | None  # (n, C) of the training examples, then of those held out
    identity: Identity
    steps: Steps
    optimizer: Optimizer
    tracker: Tracker
    progress: Progress
    health: HealthMonitor
    clock: SaveClock
    weights_before: list[Tensor]  # a sample, as the model was given
    rounding: Rounding | None  # of its log-probs; None without self-checks
    moving: MovingReference | None = None
    terminated: threading.Event = field(default_factory=threading.Event)
    waiting: list[Shares] = field(default_factory=list)
    train_line: dict[str, float] = field(default_factory=dict)
    eval_line: dict[str, float] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the last step is done: that of the schedule, or one that early stopping has made the last."""
        patience = self.job.settings.early_stopping_patience
        stopped = patience is not None and self.progress.not_better >= patience
        return stopped or self.progress.step == self.steps.num_steps

    def batch(self, examples: Sequence[Example], indices: Sequence[int]) -> Batch:
        """Examples, which have these ``indices`` in ``ref_logps``, as a batch, with the reference as of the start."""
        ref_logps = None if self.ref_logps is None else self.ref_logps[list(indices)]
        return make_batch(self.job.objective, examples, ref_logps)

    def batch_of_step(self, step: int) -> Batch:
        """The batch of a step, with the reference as of the start."""
        indices = step_indices(self.steps, step, seed=self.job.seed, shuffle=self.job.shuffle)
        return self.batch([self.job.examples[index] for index in indices], indices)

    def compared(self, batch: Batch) -> Batch:
        """The batch with the reference as of this step."""
        moving, budget = self.moving, self.job.settings.max_tokens_per_micro_batch
        if moving is None or not moving.has_moved(self.progress.step):
            return batch
        return dataclasses.replace(batch, ref_logps=moving.logps(self.scorer, batch.rows, max_tokens=budget))

    @property
    def state(self) -> TrainingState:
        """What a checkpoint holds."""
        return _state(self.scorer, self.optimizer, self.moving)


def start(job: TrainJob) -> TrainRun:
    """The run at its first step, or at its newest checkpoint; its inputs are checked first."""
    lora = job.model.lora if isinstance(job.model, StoredModel) else None
    if isinstance(job.model, StoredModel):
        job = _opened(job, job.model)
    arranged = job.objective.arranged
    job = dataclasses.replace(job, examples=arranged(job.examples), eval_examples=arranged(job.eval_examples))
    _seed(job.seed)
    check_job(job)
    settings, steps = job.settings, count_steps(job.settings, len(job.examples))
    check_warmup(steps, settings, "train")
    hashes = model_hashes(job)
    identity, scorer = identity_of(job, hashes), build_scorer(job.policy, settings, weights=job.weights)
    rounding, ref_logps = check_before_training(job, scorer) if settings.self_checks else None, None
    if job.objective.needs_reference:
        ref_logps = proven_ref_logps(job, scorer, hashes.reference, rounding=rounding)
    optimizer = build_optimizer(scorer, settings, lora)
    moving = moving_reference(job.objective, scorer, job.reference)
    weights_before = sample_weights(scorer)
    resumed = load_latest(job.folder, _state(scorer, optimizer, moving), identity=identity)
    own = settings.model_dump() | {"seed": job.seed, "shuffle": job.shuffle}
    name, config = (job.folder.name, own) if job.tracked_as is None else (job.tracked_as.name, job.tracked_as.config)
    tracked = Run(job.folder, name, config, resumed.step if resumed else None, job.on_step, job.tracked_as)
    tracker = open_trackers(settings.report_to, tracked) if rank() == 0 else NOWHERE
    past = logged_lines(job.folder / TRAIN_LOG)  # as the tracker has left them, up to the checkpoint
    run = TrainRun(
        job=job,
        scorer=scorer,
        ref_logps=ref_logps,
        identity=identity,
        steps=steps,
        optimizer=optimizer,
        tracker=tracker,
        progress=resumed or Progress(step=0),
        health=HealthMonitor(past),
        clock=SaveClock(settings.save_seconds),
        moving=moving,
        weights_before=weights_before,
        rounding=rounding,
        waiting=shares_of(resumed.notes) if resumed else [],
    )
    if past and run.is_over:
        run.train_line, run.eval_line = split_line(past[-1])
    return run


def _opened(job: TrainJob, stored: StoredModel) -> TrainJob:
    """The job with its models in memory."""
    model, weights = open_model(stored, job.settings, seed=job.seed)
    if stored.reference is not None:
        reference = open_reference(stored.reference, job.settings)
        job = dataclasses.replace(job, reference=reference.model, reference_weights=reference.weights)
    sample = job.sample or sampler(stored, model, job.eval_examples, stop_ids=job.stop_ids, folder=job.folder)
    return dataclasses.replace(job, model=model, weights=weights, name=stored.source.name, sample=sample)


def _state(scorer: ForestScorer, optimizer: Optimizer, moving: MovingReference | None) -> TrainingState:
    return TrainingState(scorer, optimizer, {} if moving is None else moving.tensors)


def _seed(seed: int) -> None:
    """Seed every generator that libraries draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # what libraries draw from
    torch.manual_seed(seed)
