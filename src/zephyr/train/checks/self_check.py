"""When a run proves itself: a probe of its own examples before training, and its first loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from zephyr.models.batch_scoring import ScoredRow, device_of, score_table
from zephyr.models.scorer import ForestScorer
from zephyr.train.checks.invariants import (
    check_first_loss,
    check_layouts_agree,
    check_no_leak,
    check_reference_agrees,
    check_supervision,
)
from zephyr.train.checks.rounding import Rounding, measured_rounding
from zephyr.train.distributed import compute_dtype
from zephyr.train.job import TrainJob
from zephyr.train.metrics import Shares
from zephyr.train.step import Batch
from zephyr.trees.forest import ScoredSequence

logger = logging.getLogger(__name__)

NUM_PROBED = 3
NUM_LOOKED_AT = 100


def check_before_training(job: TrainJob, scorer: ForestScorer, ref_logps: Tensor | None) -> Rounding:
    """What rounding does to the model's log-probs, once the data teaches something and a probe of it is scored right.

    A probe is right if it has the same log-probs however it is laid out. ``ref_logps`` (n, C) of the training examples
    first. Raises InvariantError.
    """
    rows, names = job.rows, [example.name for example in job.examples]
    max_tokens, dtype = job.settings.max_tokens_per_micro_batch, compute_dtype(job.settings)
    seen = check_supervision(rows, names, stop_ids=job.stop_ids, all_allowed=job.objective.scores_everything)
    logger.info(
        "supervised: %.1f %% of %d tokens; %d of %d examples hold a stop token",
        100 * seen.share, seen.num_tokens, seen.num_with_stop, seen.num_examples,
    )  # fmt: skip
    probed = _probed(rows)
    sequences, owners = _sequences(rows, names, probed, max_tokens)
    rounding = measured_rounding(scorer, sequences, dtype=dtype)
    check_layouts_agree(scorer, sequences, owners, rounding=rounding)
    # Grouped matrix products of experts round by what else is in the group.
    within = rounding if scorer.num_experts else None
    check_no_leak(scorer, sequences, owners, within=within, changing={0, len(sequences) - 1})
    if ref_logps is not None and _is_own_reference(job, scorer):
        of_probe = [rows[index] for index in probed]
        table = score_table(scorer, of_probe, max_tokens=max_tokens, device=device_of(scorer))
        whose = [names[index] for index in probed]
        check_reference_agrees(table.logps, ref_logps[probed], table.num_tokens, whose, rounding=rounding)
    return rounding


def check_first_step(job: TrainJob, scorer: ForestScorer, total: Shares, batch: Batch, *, rounding: Rounding) -> None:
    """Check that the loss of step 0 is the one that equal policy and reference must give. Raises InvariantError."""
    # A router's balance loss is not the objective's.
    has_balance = job.settings.router_aux_loss_coef > 0
    if batch.ref_logps is not None and _is_own_reference(job, scorer) and not has_balance:
        check_first_loss(float(total.loss), job.objective, batch.examples, batch.ref_logps, rounding=rounding)


def _is_own_reference(job: TrainJob, scorer: ForestScorer) -> bool:
    """Whether the policy starts as its own reference: no other model is named, and adapters add nothing yet."""
    return job.reference is None and scorer.starts_as_reference


def _probed(rows: Sequence[ScoredRow]) -> list[int]:
    """A few examples for the probe: rather short ones of the first, for each costs several forward passes."""
    lengths = [sum(len(sequence.ids) for sequence in row) for row in rows[:NUM_LOOKED_AT]]
    by_length = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    first = min(len(by_length) // 4, max(0, len(by_length) - NUM_PROBED))
    return by_length[first : first + NUM_PROBED]


def _sequences(
    rows: Sequence[ScoredRow], names: Sequence[str], probed: Sequence[int], max_tokens: int
) -> tuple[list[ScoredSequence], list[str]]:
    """The sequences of the probed examples, within the token budget, and whose they are."""
    sequences: list[ScoredSequence] = []
    owners: list[str] = []
    for index in probed:
        fresh = [sequence for sequence in rows[index] if len(sequence.ids)]
        total = sum(len(sequence.ids) for sequence in [*sequences, *fresh])
        if sequences and total > max_tokens:
            break
        sequences += fresh
        owners += [names[index]] * len(fresh)
    return sequences, owners
