"""A training job, and what is done to its inputs before the first step: checked, hashed, scored by the reference."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from zephyr.data.tokenize.token_store import Example
from zephyr.errors import DataError, ModelError, RecipeError
from zephyr.models.batch_scoring import ScoredRow, device_of, unique_tokens
from zephyr.models.collectives import from_rank_zero, is_distributed, on_every_rank, rank
from zephyr.models.host_memory import keep_freed_memory
from zephyr.models.loading import check_finite_weights, check_token_ids, num_embeddings
from zephyr.models.scorer import CausalLM, ForestScorer, Kernels, plain_model
from zephyr.models.stored_weights import StoredWeights, stored_hash
from zephyr.models.weight_hash import weights_hash
from zephyr.progress import SILENT, show_progress
from zephyr.recipe.train_section import TrainSection
from zephyr.train.checkpoint.checkpoint import Identity
from zephyr.train.distributed import (
    compute_dtype,
    is_empty,
    pick_device,
    shard,
    weights_dtype,
)
from zephyr.train.examples import check_examples
from zephyr.train.objectives import Objective
from zephyr.train.reference import describe_reference, fill_reference
from zephyr.train.reference_store import ReferenceStore, sequence_key
from zephyr.train.stored_model import StoredModel
from zephyr.train.tracker import TrackedAs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """One training: a model, what it learns from, by which objective and settings, and where to.

    ``model``: one in memory, trained in place, or one on disk, read and written by the training. ``folder`` takes
    checkpoints, logs and, unless ``reference_store`` names another place, the reference's log-probs. ``reference`` is
    the model to compare with, None for the model as it is given (with its adapters off, if it has any). ``stop_ids``
    end an answer. ``weights`` and ``reference_weights``: where the ranks read the weights of a model that is on the
    meta device. Without ``shuffle`` the examples come in their order in every epoch. ``sample`` is called on every rank
    with the step when the model is evaluated, may write with it, and returns what it measured of its texts
    (``generations/mean_tokens``). ``on_step`` is called on rank 0 with every line of the log: the step and its metrics.
    ``tracked_as``: what trackers call it, and where they keep their files.
    """

    model: CausalLM | StoredModel
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
    weights: StoredWeights | None = None
    reference_weights: StoredWeights | None = None
    name: str = "the policy"
    sample: Callable[[int], dict[str, float]] | None = None
    on_step: Callable[[int, Mapping[str, float]], None] | None = None
    tracked_as: TrackedAs | None = None

    @property
    def policy(self) -> CausalLM:
        """The model in memory."""
        assert not isinstance(self.model, StoredModel), "training opens a stored model before anything reads it"
        return self.model

    @property
    def rows(self) -> ExampleRows:
        """The sequences of the examples."""
        return ExampleRows(self.objective, self.examples)


class ExampleRows(Sequence[ScoredRow]):
    """The sequences of every example, laid out by the objective each time they are read.

    Held for all examples at once they would take many times the memory of the examples themselves.
    """

    def __init__(self, objective: Objective, examples: Sequence[Example]) -> None:
        self._objective = objective
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> ScoredRow: ...
    @overload
    def __getitem__(self, index: slice) -> ExampleRows: ...  # type: ignore[explicit-any]  # of slice itself
    def __getitem__(self, index: int | slice) -> ScoredRow | ExampleRows:  # type: ignore[explicit-any]
        if isinstance(index, slice):
            return ExampleRows(self._objective, self._examples[index])
        return self._objective.sequences(self._examples[index])


def check_job(job: TrainJob) -> None:
    """Check examples, weights and settings before anything expensive runs; a collective call.

    Raises DataError, ModelError or RecipeError that name what is wrong.
    """
    if not job.examples:
        raise DataError("training examples", "there are none", "give at least one")
    wanted = [n for n in ("eval_steps", "metric_for_best_model") if getattr(job.settings, n) is not None]
    wanted += ["lr_scheduler_type"] if job.settings.lr_scheduler_type == "reduce_lr_on_plateau" else []
    if wanted and not job.eval_examples:
        raise RecipeError(" and ".join(wanted), "there are no evaluation examples", "give some, or leave this out")
    on_every_rank(lambda: _check_weights(job))
    _check_examples(job, job.examples)
    _check_examples(job, job.eval_examples)


def _check_weights(job: TrainJob) -> None:
    check_finite_weights(job.policy.state_dict(), job.name)
    if job.reference is not None:
        check_finite_weights(job.reference.state_dict(), "the reference")


def _check_examples(job: TrainJob, examples: Sequence[Example]) -> None:
    """Check that every example can be laid out, has an embedding for each of its ids and fits a micro-batch."""
    check_examples(examples)
    vocab_size, budget = num_embeddings(plain_model(job.policy)), job.settings.max_tokens_per_micro_batch
    for example, row in zip(examples, ExampleRows(job.objective, examples), strict=True):
        for sequence in row:
            check_token_ids(sequence.ids, vocab_size, example.name)
        # The sum over sequences bounds the unique tokens; only where it is too large must they be counted.
        if sum(len(sequence.ids) for sequence in row) > budget and (size := unique_tokens([row])[0]) > budget:
            raise DataError(
                example.name,
                f"holds {size} tokens, more than max_tokens_per_micro_batch = {budget}",
                f"set max_tokens_per_micro_batch to at least {size}, or lower max_length",
            )


class ModelHashes(NamedTuple):
    """What the log-probs of the policy and of its reference depend on."""

    policy: str
    reference: str


def model_hashes(job: TrainJob) -> ModelHashes:
    """The hashes of the job's models; a collective call. Raises ModelError where ranks hold different weights."""
    policy = _model_hash(job, job.policy, job.weights)
    return ModelHashes(
        policy, policy if job.reference is None else _model_hash(job, job.reference, job.reference_weights)
    )


def _model_hash(job: TrainJob, model: CausalLM, weights: StoredWeights | None = None) -> str:
    """What a model's log-probs depend on: its weights without adapters, its configuration, the precision."""
    config = model.config.to_diff_dict() if hasattr(model.config, "to_diff_dict") else {}
    plain = {key: value for key, value in config.items() if not key.startswith("_") and "version" not in key}
    settings = json.dumps([job.settings.precision, plain], sort_keys=True, default=str)
    # Ranks may leave the weights to rank 0.
    found = (
        [stored_hash(weights, model)]
        if weights is not None
        else on_every_rank(lambda: None if is_empty(model) else weights_hash(model, adapters=False))
    )
    known = {weights for weights in found if weights is not None}
    if len(known) != 1:
        fault = "differ between ranks" if known else "are on no rank"
        raise ModelError(
            job.name,
            f"its weights {fault}, got {len(known)} versions on {len(found)} ranks",
            "load the same weights on every rank, or on rank 0 alone and the model on the meta device elsewhere",
        )
    return hashlib.sha256(f"{known.pop()} {settings}".encode()).hexdigest()[:32]


def identity_of(job: TrainJob, hashes: ModelHashes) -> Identity:
    """What a checkpoint of this job belongs to. Raises DataError where ranks have different jobs."""
    data = hashlib.blake2b(digest_size=16)
    for row in job.rows:
        data.update(b"".join(sequence_key(sequence) for sequence in row) + b"\n")
    recipe = {
        "objective": job.objective.options.result_settings(),
        "settings": job.settings.result_settings(),
        "seed": job.seed,
        "shuffle": job.shuffle,
    }
    recipe_hash = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16).hexdigest()
    models = hashes.policy if job.reference is None else f"{hashes.policy} with reference {hashes.reference}"
    mine = Identity(data.hexdigest(), recipe_hash, models)
    # Ranks cut one batch between them.
    for number, other in enumerate(on_every_rank(lambda: mine)):
        differing = [name for name, value in mine._asdict().items() if other._asdict()[name] != value]
        if differing:
            raise DataError(
                "several processes",
                f"ranks {rank()} and {number} have another {' and '.join(differing)}",
                "give every rank the same model, settings, and examples in the same order",
            )
    return mine


def build_scorer(
    model: CausalLM,
    train: TrainSection,
    device: torch.device | None = None,
    kernels: Kernels = Kernels(),  # noqa: B008  # a frozen record
    weights: StoredWeights | None = None,
) -> ForestScorer:
    """The model on its device, in its precision, in train mode, sharded over the ranks if there are several.

    ``device``: None for the one of this process. ``weights``: where the ranks read their shards of a model that is on
    the meta device.
    """
    device = pick_device() if device is None else device
    if device.type == "cpu":
        keep_freed_memory()
    scorer = _scorer(model, train, kernels)
    if train.activation_checkpointing:
        keep_products = train.activation_checkpointing == "selective"
        scorer.checkpoint_activations(keep_products=keep_products, every=train.recomputes_every or 1)
    if train.compile:
        scorer.compile_layers()
    _place(scorer, train, device, weights)
    scorer.train()
    return scorer


def _scorer(model: CausalLM, train: TrainSection, kernels: Kernels) -> ForestScorer:
    if not getattr(model, "is_quantized", False):
        _convert(model, weights_dtype(train))
    # FSDP2 has a policy of its own for computing in another dtype.
    mixed = compute_dtype(train) != weights_dtype(train) and not is_distributed()
    autocast = compute_dtype(train) if mixed else None
    keep_router_logits = train.router_aux_loss_coef > 0
    scorer = ForestScorer(model, autocast=autocast, keep_router_logits=keep_router_logits, kernels=kernels)
    if keep_router_logits and not scorer.experts_per_token:
        raise RecipeError(
            "router_aux_loss_coef",
            f"{type(scorer.transformers_model).__name__} chooses no experts, so there is no balance to keep",
            "leave it out",
        )
    return scorer


def _convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights in place, and no buffer: rotary frequencies in bfloat16 turn distant tokens by radians."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _place(scorer: ForestScorer, train: TrainSection, device: torch.device, weights: StoredWeights | None) -> None:
    """Move the scorer to its device in place, sharded over the ranks if there are several."""
    if is_distributed():
        scorer.starts_as_reference = from_rank_zero(lambda: scorer.starts_as_reference)
        shard(scorer, device=device, train=train, weights=weights)
    if any(tensor.device != device for tensor in (*scorer.parameters(), *scorer.buffers())):
        scorer.to(device)


def reference_scorer(job: TrainJob, scorer: ForestScorer) -> ForestScorer:
    """What scores with the reference: the policy's ``scorer``, or one of another model on the same device."""
    if job.reference is None:
        return scorer
    other = _scorer(job.reference, job.settings, scorer.kernels)
    _place(other, job.settings, device_of(scorer), job.reference_weights)
    return other


def reference_logps(job: TrainJob, scorer: ForestScorer, reference_hash: str, wanted: Sequence[int]) -> Tensor:
    """(n, C) float64 log-probs of the reference for all examples, then those held out; stored, or computed now.

    ``scorer`` is that of ``reference_scorer``. Of the examples only those with an index in ``wanted`` and those held
    out are scored; what no step reads is NaN.
    """
    held_out = range(len(job.examples), len(job.examples) + len(job.eval_examples))
    chosen = [*wanted, *held_out]
    name, examples = job.name, [job.examples[index] for index in wanted] + list(job.eval_examples)
    if job.reference is not None:
        name = "another model than the policy"
    logger.info("%s", describe_reference(name, reference_hash, adapters_off=scorer.has_adapters))
    store = ReferenceStore(job.reference_store or job.folder / "reference", reference_hash)
    rows, names = ExampleRows(job.objective, examples), [example.name for example in examples]
    shown = show_progress("reference log-probs", len(rows)) if rank() == 0 else nullcontext(SILENT)
    with scorer.as_reference(), shown as display:
        report = fill_reference(
            store,
            scorer,
            rows,
            max_tokens=job.settings.max_tokens_per_micro_batch,
            names=names,
            progress=lambda done, missing: display.update(len(rows) - missing + done),
        )
    if job.reference is not None:
        nn.Module.to(job.reference, "cpu")  # during training only the policy is on the device
    counts = "reference log-probs: %d computed in %.1f s, %d reused"
    logger.info(counts, report.computed, report.seconds, report.reused)
    keys = [sequence_key(sequence) for row in rows for sequence in row]
    scored = torch.from_numpy(store.get(keys)).view(len(rows), -1)
    logps = torch.full((held_out.stop, scored.shape[1]), torch.nan, dtype=scored.dtype)
    logps[chosen] = scored
    return logps
