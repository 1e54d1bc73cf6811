"""When a run proves itself: a probe of its own examples before training, and its first loss."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import ScoredRow, device_of, score_table
from zephyr.models.carried_state import are_close
from zephyr.models.collectives import from_rank_zero, on_every_rank
from zephyr.models.own_forward import check_own_forward
from zephyr.models.reward_model import load_reward_model, own_rewards
from zephyr.models.rounding import Rounding, measured_rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.recipe.steps import count_steps
from zephyr.train.checks.invariants import (
    check_first_loss,
    check_layouts_agree,
    check_no_leak,
    check_reference_agrees,
    check_supervision,
)
from zephyr.train.distributed import compute_dtype, local_part, weights_dtype
from zephyr.train.job import TrainJob, reference_logps, reference_scorer
from zephyr.train.metrics import Shares
from zephyr.train.step import Batch, drawn_indices
from zephyr.train.stored_model import StoredModel
from zephyr.trees.forest import Ids, ScoredSequence, build_forest

logger = logging.getLogger(__name__)

NUM_PROBED = 3
NUM_LOOKED_AT = 100


def check_before_training(job: TrainJob, scorer: ForestScorer) -> Rounding:
    """What rounding does to the model's log-probs, once the data teaches something and a probe of it is scored right.

    A probe is right if it has the same log-probs however it is laid out, and those of the model's own forward. Raises
    InvariantError, or ModelError for a model that is not scored as it computes.
    """
    rows, names = job.rows, [example.name for example in job.examples]
    seen = check_supervision(rows, names, stop_ids=job.stop_ids, all_allowed=job.objective.scores_everything)
    logger.info(
        "supervised: %.1f %% of %d tokens; %d of %d examples hold a stop token",
        100 * seen.share, seen.num_tokens, seen.num_with_stop, seen.num_examples,
    )  # fmt: skip
    sequences, owners = _probe(job)
    rounding = measured_rounding(scorer, sequences, dtype=compute_dtype(job.settings))
    check_layouts_agree(scorer, sequences, owners, rounding=rounding)
    # Grouped matrix products of experts round by what else is in the group.
    within = rounding if scorer.num_experts else None
    check_no_leak(scorer, sequences, owners, within=within, changing={0, len(sequences) - 1})
    check_own_forward(scorer, [sequence.ids for sequence in sequences], rounding=rounding)
    if scorer.carries_state:
        _try_gradients(scorer, sequences, rounding.dtype)
    return rounding


def _try_gradients(scorer: ForestScorer, sequences: Sequence[ScoredSequence], dtype: torch.dtype) -> None:
    """Fall back to one sequence a row, with a warning, unless carried states keep their gradients.

    A kernel may give a state back without its gradient, and no log-prob shows that.
    """
    carried = _gradients(scorer, sequences)
    scorer.carries_state = False
    is_same = are_close(carried, _gradients(scorer, sequences), dtype)
    scorer.carries_state = all(on_every_rank(lambda: is_same))
    if not scorer.carries_state:
        logger.warning("falling back to one sequence a row: a state carried over a fork has lost its gradient")


def _gradients(scorer: ForestScorer, sequences: Sequence[ScoredSequence]) -> list[Tensor]:
    """The gradients of the sequences' log-probs, of what this rank holds."""
    scorer(build_forest(sequences).to(device_of(scorer))).logps.sum().backward()
    found = [local_part(p.grad) for p in scorer.parameters() if p.grad is not None]
    scorer.zero_grad(set_to_none=True)
    return found


def proven_ref_logps(job: TrainJob, scorer: ForestScorer, reference_hash: str, *, rounding: Rounding | None) -> Tensor:
    """The reference's log-probs of what the steps draw, as of ``reference_logps``, proven unless ``rounding`` is None.

    A model of its own must be scored as it computes, and a policy that starts as its own reference must agree with it.
    Raises ModelError or InvariantError.
    """
    reference = reference_scorer(job, scorer)
    if rounding is not None and reference is not scorer:
        sequences, _ = _probe(job)
        of_reference = measured_rounding(reference, sequences, dtype=compute_dtype(job.settings))
        check_own_forward(reference, [sequence.ids for sequence in sequences], rounding=of_reference)
    probed = [] if rounding is None else _probed(job.rows)
    steps = count_steps(job.settings, len(job.examples))
    wanted = sorted(drawn_indices(steps, seed=job.seed, shuffle=job.shuffle).union(probed))
    ref_logps = reference_logps(job, reference, reference_hash, wanted)
    if rounding is not None and _is_own_reference(job, scorer):
        rows, max_tokens = job.rows, job.settings.max_tokens_per_micro_batch
        of_probe, whose = [rows[index] for index in probed], [job.examples[index].name for index in probed]
        table = score_table(scorer, of_probe, max_tokens=max_tokens, device=device_of(scorer))
        check_reference_agrees(table.logps, ref_logps[probed], table.num_tokens, whose, rounding=rounding)
    return ref_logps


def check_first_step(job: TrainJob, scorer: ForestScorer, total: Shares, batch: Batch, *, rounding: Rounding) -> None:
    """Check that the loss of step 0 is the one that equal policy and reference must give. Raises InvariantError."""
    # A router's balance loss is not the objective's, and noise moves the policy away from its reference.
    is_another = job.settings.router_aux_loss_coef > 0 or job.settings.neftune_noise_alpha is not None
    is_another = is_another or job.objective.weighs_by_policy
    if batch.ref_logps is not None and _is_own_reference(job, scorer) and not is_another:
        check_first_loss(float(total.loss), job.objective, batch.examples, batch.ref_logps, rounding=rounding)


def check_written(job: TrainJob, scorer: ForestScorer, stored: StoredModel, *, rounding: Rounding) -> None:
    """Check that a written reward model gives the rewards that training ended with, by transformers alone.

    Its dialogues are padded to one length. A collective call. Raises InvariantError, the model's folder removed, where
    it gives others. Of a 4-bit base nothing is said: its reward model, merged, is rounded to bfloat16 once more.
    """
    if not scorer.gives_rewards or (stored.lora is not None and stored.lora.load_in_4bit):
        return
    sequences, _ = _probe(job)
    max_tokens = job.settings.max_tokens_per_micro_batch
    trained = score_table(scorer, [[one] for one in sequences], max_tokens=max_tokens, device=device_of(scorer)).logps
    from_rank_zero(lambda: _check_written(job, stored, [one.ids for one in sequences], trained[:, 0], rounding))


def _check_written(
    job: TrainJob, stored: StoredModel, sequences: Sequence[Ids], trained: Tensor, rounding: Rounding
) -> None:
    weights, computed = weights_dtype(job.settings), compute_dtype(job.settings)
    source = Source(str(stored.model_folder), offline=True)
    model = load_reward_model(source, dtype=str(weights).removeprefix("torch."))
    with torch.autocast("cpu", dtype=computed) if computed != weights else nullcontext():
        written = own_rewards(model, sequences)
    off, limit = float((written - trained).abs().max()), float(rounding.tolerance(torch.ones(1)))
    logger.info("the written model gives the rewards of training, up to %.1e of %.0e", off, limit)
    if not off <= limit:  # NaN is above every limit
        shutil.rmtree(stored.model_folder)
        raise InvariantError(
            "written reward model",
            f"its rewards differ by up to {off:.1e} from those that training ended with, where rounding explains "
            f"{limit:.0e}; the folder is removed",
            "train in float32, or report this with the versions that `zephyr env` prints",
        )


def _is_own_reference(job: TrainJob, scorer: ForestScorer) -> bool:
    """Whether the policy starts as its own reference: no other model is named, and adapters add nothing yet."""
    return job.reference is None and scorer.starts_as_reference


def _probed(rows: Sequence[ScoredRow]) -> list[int]:
    """A few examples for the probe: rather short ones of the first, for each costs several forward passes."""
    lengths = [sum(len(sequence.ids) for sequence in row) for row in rows[:NUM_LOOKED_AT]]
    by_length = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    first = min(len(by_length) // 4, max(0, len(by_length) - NUM_PROBED))
    return by_length[first : first + NUM_PROBED]


def _probe(job: TrainJob) -> tuple[list[ScoredSequence], list[str]]:
    """The sequences of the probed examples, within the token budget, and whose they are."""
    rows, max_tokens = job.rows, job.settings.max_tokens_per_micro_batch
    sequences: list[ScoredSequence] = []
    owners: list[str] = []
    for index in _probed(rows):
        fresh = [sequence for sequence in rows[index] if len(sequence.ids)]
        total = sum(len(sequence.ids) for sequence in [*sequences, *fresh])
        if sequences and total > max_tokens:
            break
        sequences += fresh
        owners += [job.examples[index].name] * len(fresh)
    return sequences, owners
