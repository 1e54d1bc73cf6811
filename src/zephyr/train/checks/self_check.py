"""When a run proves itself: a probe of its own examples before training, and its first loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from zephyr.models.batch_scoring import score_table
from zephyr.train.checks.invariants import (
    check_first_loss,
    check_layouts_agree,
    check_no_leak,
    check_reference_agrees,
    check_supervision,
)
from zephyr.train.distributed import compute_dtype
from zephyr.train.job import Examples, Prepared, TrainJob
from zephyr.train.metrics import Shares
from zephyr.train.step import Batch, Engine
from zephyr.trees.forest import ScoredSequence

logger = logging.getLogger(__name__)

NUM_PROBED = 3
NUM_LOOKED_AT = 100


def check_before_training(job: TrainJob, prepared: Prepared) -> None:
    """Nothing, if the data teaches something and a probe of it is scored right however it is laid out."""
    train, engine = prepared.train, prepared.engine
    names = [example.name for example in train.examples]
    all_allowed = job.objective.scores_everything
    seen = check_supervision(train.rows, names, stop_ids=job.stop_ids, all_allowed=all_allowed)
    logger.info(
        "supervised: %.1f %% of %d tokens; %d of %d examples hold a stop token",
        100 * seen.share, seen.num_tokens, seen.num_with_stop, seen.num_examples,
    )  # fmt: skip
    probed = _probed(train)
    sequences, owners = _sequences(train, probed, engine.max_tokens)
    dtype = compute_dtype(job.settings)
    check_layouts_agree(engine.scorer, sequences, owners, dtype=dtype)
    # Grouped matrix products of experts round by what else is in the group.
    within = dtype if engine.scorer.num_experts else None
    check_no_leak(engine.scorer, sequences, owners, within=within, changing={0, len(sequences) - 1})
    if train.ref_logps is not None and _is_own_reference(job, engine):
        rows = [train.rows[index] for index in probed]
        table = score_table(engine.scorer, rows, max_tokens=engine.max_tokens, device=engine.device)
        whose = [names[index] for index in probed]
        check_reference_agrees(table.logps, train.ref_logps[probed], table.num_tokens, whose, dtype=dtype)


def check_first_step(job: TrainJob, engine: Engine, total: Shares, batch: Batch) -> None:
    """Nothing, if the loss of step 0 is the one that equal policy and reference must give."""
    # A router's balance loss is not the objective's.
    if batch.ref_logps is not None and _is_own_reference(job, engine) and engine.router_coef == 0:
        check_first_loss(
            float(total.loss), job.objective, batch.examples, batch.ref_logps, dtype=compute_dtype(job.settings)
        )


def _is_own_reference(job: TrainJob, engine: Engine) -> bool:
    """Whether the policy starts as its own reference: no other model is named, and adapters add nothing yet."""
    return job.reference is None and engine.scorer.starts_as_reference


def _probed(train: Examples) -> list[int]:
    """A few examples for the probe: rather short ones of the first, for each costs several forward passes."""
    lengths = [sum(len(sequence.ids) for sequence in row) for row in train.rows[:NUM_LOOKED_AT]]
    by_length = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    first = min(len(by_length) // 4, max(0, len(by_length) - NUM_PROBED))
    return by_length[first : first + NUM_PROBED]


def _sequences(train: Examples, probed: Sequence[int], max_tokens: int) -> tuple[list[ScoredSequence], list[str]]:
    """The sequences of the probed examples, within the token budget, and whose they are."""
    sequences: list[ScoredSequence] = []
    owners: list[str] = []
    for index in probed:
        fresh = [sequence for sequence in train.rows[index] if len(sequence.ids)]
        total = sum(len(sequence.ids) for sequence in [*sequences, *fresh])
        if sequences and total > max_tokens:
            break
        sequences += fresh
        owners += [train.examples[index].name] * len(fresh)
    return sequences, owners
