"""A training job: what is asked for, and getting it ready so that nothing but steps is left to do."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import DataError, ModelError, RecipeError
from zephyr.models.batch_scoring import Row, unique_tokens
from zephyr.models.collectives import from_rank_zero, is_distributed, on_every_rank, rank
from zephyr.models.loading import check_finite_weights, check_token_ids, num_embeddings
from zephyr.models.scorer import CausalLM, ForestScorer, decoder_layers, plain_model
from zephyr.models.weight_hash import weights_hash
from zephyr.recipe.train_section import TrainSection
from zephyr.train.allocator import keep_freed_memory
from zephyr.train.checkpoint.checkpoint import Identity
from zephyr.train.distributed import compute_dtype, is_empty, pick_device, shard, weights_dtype
from zephyr.train.examples import check_examples
from zephyr.train.objectives import Objective
from zephyr.train.reference import describe_reference, fill_reference
from zephyr.train.reference_store import ReferenceStore, sequence_key
from zephyr.train.step import Batch, Engine, Layout, make_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """One training run: a model, what it learns from, by which objective and settings, and where to.

    ``folder`` takes checkpoints, logs and, unless ``reference_store`` names another place, the reference's
    log-probs. ``reference`` is the model to compare with, None for the model as it is given (with its adapters off,
    if it has any). ``stop_ids`` end an answer. Without ``shuffle`` the examples come in their order in every epoch.
    ``sample`` is called on every rank with the step when the
    model is evaluated, may write with it, and returns what it measured of its texts
    (``generations/mean_tokens``).
    """

    model: CausalLM
    objective: Objective
    settings: TrainSection
    examples: Sequence[Example]
    folder: Path
    seed: int = 42
    shuffle: bool = True
    eval_examples: Sequence[Example] = ()
    reference: CausalLM | None = None
    reference_store: Path | None = None
    stop_ids: Collection[int] = ()
    name: str = "the policy"
    sample: Callable[[int], dict[str, float]] | None = None


class Examples(NamedTuple):
    """Examples laid out by the objective, and the reference's log-probs (n, C) of their sequences, if it needs them."""

    examples: Sequence[Example]
    rows: Sequence[Row]
    ref_logps: Tensor | None

    def batch(self, objective: Objective, indices: Sequence[int]) -> Batch:
        """The examples ``indices`` as a batch."""
        ref_logps = None if self.ref_logps is None else self.ref_logps[list(indices)]
        return make_batch(objective, [self.examples[index] for index in indices], ref_logps)


class Prepared(NamedTuple):
    """A job whose inputs are checked, laid out and referenced; ``identity`` says what a checkpoint belongs to."""

    engine: Engine
    train: Examples
    evaluation: Examples | None
    identity: Identity


def prepare(job: TrainJob) -> Prepared:
    """The job ready to step. Raises ZephyrErrors naming bad examples or weights before anything expensive runs."""
    if not job.examples:
        raise DataError("training examples", "there are none", "give at least one")
    _check_evaluation(job)
    on_every_rank(lambda: _check_weights(job))
    rows, eval_rows = Layout(job.objective, job.examples), Layout(job.objective, job.eval_examples)
    _check_examples(job, job.examples)
    _check_examples(job, job.eval_examples)
    model_hash = _hash_of(job, job.model)
    reference_hash = model_hash if job.reference is None else _hash_of(job, job.reference)
    hashes = model_hash if job.reference is None else f"{model_hash} with reference {reference_hash}"
    identity = Identity(_data_hash(rows), _recipe_hash(job), hashes)
    _check_same_on_all_ranks(identity)
    engine = build_engine(job)
    ref_logps = eval_ref_logps = None
    if job.objective.needs_reference:
        both = _reference_logps(job, engine, Layout(job.objective, [*job.examples, *job.eval_examples]), reference_hash)
        ref_logps, eval_ref_logps = both[: len(rows)], both[len(rows) :]
    evaluation = Examples(job.eval_examples, eval_rows, eval_ref_logps) if job.eval_examples else None
    return Prepared(engine, Examples(job.examples, rows, ref_logps), evaluation, identity)


def _check_weights(job: TrainJob) -> None:
    check_finite_weights(job.model.state_dict(), job.name)
    if job.reference is not None:
        check_finite_weights(job.reference.state_dict(), "the reference")


def _check_same_on_all_ranks(mine: Identity) -> None:
    """Nothing, if every rank trains on the same data by the same recipe: they cut one batch between them."""
    for number, other in enumerate(on_every_rank(lambda: mine)):
        differing = [name for name, value in mine._asdict().items() if other._asdict()[name] != value]
        if differing:
            raise DataError(
                "several processes",
                f"ranks {rank()} and {number} have another {' and '.join(differing)}",
                "give every rank the same model, settings, and examples in the same order",
            )


def _check_evaluation(job: TrainJob) -> None:
    """A RecipeError if settings speak of evaluations that cannot happen."""
    wanted = [n for n in ("eval_steps", "metric_for_best_model") if getattr(job.settings, n) is not None]
    if wanted and not job.eval_examples:
        raise RecipeError(" and ".join(wanted), "there are no evaluation examples", "give some, or leave this out")


def build_engine(job: TrainJob) -> Engine:
    """The job's scorer on its device, in its precision, sharded over the ranks if there are several."""
    settings, device = job.settings, pick_device()
    if device.type == "cpu":
        keep_freed_memory()
    scorer = _scorer(job, job.model)
    if settings.activation_checkpointing:
        scorer.checkpoint_activations()
    if settings.compile:
        for layer in decoder_layers(scorer):
            layer.compile(dynamic=True)
    _place(job, scorer, device)
    scorer.train()
    return Engine(
        scorer=scorer,
        objective=job.objective,
        max_tokens=settings.max_tokens_per_micro_batch,
        device=device,
        router_coef=settings.router_aux_loss_coef,
    )


def _place(job: TrainJob, scorer: ForestScorer, device: torch.device) -> None:
    """Move the scorer to its device in place, sharded over the ranks if there are several."""
    if is_distributed():
        scorer.starts_as_reference = from_rank_zero(lambda: scorer.starts_as_reference)
        shard(scorer, device=device, precision=job.settings.precision)
    scorer.to(device)


def _scorer(job: TrainJob, model: CausalLM) -> ForestScorer:
    settings = job.settings
    if not getattr(model, "is_quantized", False):
        nn.Module.to(model, weights_dtype(settings))
    # FSDP2 has a policy of its own for computing in another dtype.
    mixed = compute_dtype(settings) != weights_dtype(settings) and not is_distributed()
    autocast = compute_dtype(settings) if mixed else None
    return ForestScorer(model, autocast=autocast, keep_router_logits=settings.router_aux_loss_coef > 0)


def _check_examples(job: TrainJob, examples: Sequence[Example]) -> None:
    """Nothing, if every example can be laid out, has an embedding for each of its ids and fits a micro-batch."""
    check_examples(examples)
    vocab_size, budget = num_embeddings(plain_model(job.model)), job.settings.max_tokens_per_micro_batch
    for example, row in zip(examples, Layout(job.objective, examples), strict=True):
        for sequence in row:
            check_token_ids(sequence.ids, vocab_size, example.name)
        # The sum over sequences bounds the unique tokens; only where it is too large must they be counted.
        if sum(len(sequence.ids) for sequence in row) > budget and (size := unique_tokens([row])[0]) > budget:
            raise DataError(
                example.name,
                f"holds {size} tokens, more than max_tokens_per_micro_batch = {budget}",
                f"set max_tokens_per_micro_batch to at least {size}, or lower max_length",
            )


def _reference_logps(job: TrainJob, engine: Engine, rows: Sequence[Row], digest: str) -> Tensor:
    """(n, C) float64 log-probs of the reference, from the store or computed now."""
    name, scorer = job.name, engine.scorer
    if job.reference is not None:
        name = "another model than the policy"
        scorer = _scorer(job, job.reference)
        _place(job, scorer, engine.device)
    logger.info("%s", describe_reference(name, digest, adapters_off=scorer.has_adapters))
    store = ReferenceStore(job.reference_store or job.folder / "reference", digest)
    names = [example.name for example in [*job.examples, *job.eval_examples]]
    with scorer.as_reference():
        report = fill_reference(store, scorer, rows, max_tokens=engine.max_tokens, names=names)
    if job.reference is not None:
        nn.Module.to(job.reference, "cpu")  # during training only the policy is on the device
    counts = "reference log-probs: %d computed in %.1f s, %d reused"
    logger.info(counts, report.computed, report.seconds, report.reused)
    keys = [sequence_key(sequence) for row in rows for sequence in row]
    return torch.from_numpy(store.get(keys)).view(len(rows), -1)


def _hash_of(job: TrainJob, model: CausalLM) -> str:
    """What a model's log-probs depend on: its weights without adapters, its configuration, the precision."""
    config = model.config.to_diff_dict() if hasattr(model.config, "to_diff_dict") else {}
    plain = {key: value for key, value in config.items() if not key.startswith("_") and "version" not in key}
    settings = json.dumps([job.settings.precision, plain], sort_keys=True, default=str)
    # Ranks may leave the weights to rank 0.
    found = on_every_rank(lambda: None if is_empty(model) else weights_hash(model, adapters=False))
    known = {weights for weights in found if weights is not None}
    if len(known) != 1:
        fault = "differ between ranks" if known else "are on no rank"
        raise ModelError(
            job.name,
            f"its weights {fault}, got {len(known)} versions on {len(found)} ranks",
            "load the same weights on every rank, or on rank 0 alone and the model on the meta device elsewhere",
        )
    return hashlib.sha256(f"{known.pop()} {settings}".encode()).hexdigest()[:32]


def _data_hash(rows: Sequence[Row]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(b"".join(sequence_key(sequence) for sequence in row) + b"\n")
    return digest.hexdigest()


def _recipe_hash(job: TrainJob) -> str:
    recipe = {
        "objective": job.objective.options.result_settings(),
        "settings": job.settings.result_settings(),
        "seed": job.seed,
        "shuffle": job.shuffle,
    }
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16).hexdigest()
