"""When a run proves itself: a probe of its own examples before training, and its first loss."""

from __future__ import annotations

import logging

from zephyr.train.invariants import (
    check_first_loss,
    check_layouts_agree,
    check_no_leak,
    check_reference_agrees,
    check_supervision,
)
from zephyr.train.job import Examples, Prepared, TrainJob
from zephyr.train.metrics import Shares
from zephyr.train.step import Batch, Engine
from zephyr.train.tables import score_table
from zephyr.trees.forest import ScoredSequence

logger = logging.getLogger(__name__)

NUM_PROBED = 3


def check_before_training(job: TrainJob, prepared: Prepared) -> None:
    """Nothing, if the data teaches something and a probe of it is scored right however it is laid out."""
    train, engine = prepared.train, prepared.engine
    names = [example.name for example in train.examples]
    all_allowed = job.scores_everything or job.objective.scores_prompts
    seen = check_supervision(train.rows, names, stop_ids=job.stop_ids, all_allowed=all_allowed)
    logger.info(
        "supervised: %.1f %% of %d tokens; %d of %d examples hold a stop token",
        100 * seen.share, seen.num_tokens, seen.num_with_stop, seen.num_examples,
    )  # fmt: skip
    sequences, owners = _probe(train, engine.max_tokens)
    dtype = job.settings.computed_in
    check_layouts_agree(engine.scorer, sequences, owners, dtype=dtype)
    # Grouped matrix products of experts round by what else is in the group.
    within = dtype if engine.scorer.num_experts else None
    check_no_leak(engine.scorer, sequences, owners, within=within)
    if train.ref_logps is not None and _is_own_reference(job, engine):
        chosen = range(min(NUM_PROBED, len(train.rows)))
        rows = [train.rows[index] for index in chosen]
        table = score_table(engine.scorer, rows, max_tokens=engine.max_tokens, device=engine.device)
        ref_logps = train.ref_logps[list(chosen)]
        check_reference_agrees(table.logps, ref_logps, table.num_tokens, names[: len(rows)], dtype=dtype)


def check_first_step(job: TrainJob, engine: Engine, total: Shares, batch: Batch) -> None:
    """Nothing, if the loss of step 0 is the one that equal policy and reference must give."""
    # A router's balance loss is not the objective's.
    if batch.ref_logps is not None and _is_own_reference(job, engine) and engine.router_coef == 0:
        check_first_loss(
            float(total.loss), job.objective, batch.examples, batch.ref_logps, dtype=job.settings.computed_in
        )


def _is_own_reference(job: TrainJob, engine: Engine) -> bool:
    """Whether the policy starts as its own reference: no other model is named, and adapters add nothing yet."""
    return job.reference is None and engine.scorer.starts_as_reference


def _probe(train: Examples, max_tokens: int) -> tuple[list[ScoredSequence], list[str]]:
    """The distinct sequences of a few examples, within the token budget, and whose they are."""
    sequences: list[ScoredSequence] = []
    owners: list[str] = []
    for example, row in zip(train.examples[:NUM_PROBED], train.rows[:NUM_PROBED], strict=True):
        fresh = [sequence for sequence in row if len(sequence.ids)]
        total = sum(len(sequence.ids) for sequence in [*sequences, *fresh])
        if sequences and total > max_tokens:
            break
        sequences += fresh
        owners += [example.name] * len(fresh)
    return sequences, owners
