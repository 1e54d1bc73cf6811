"""Several processes, one step: torchrun's process group, FSDP2 sharding, and models that only rank 0 holds.

Without torchrun every function here does what one process needs and no more. Outside of a training step's
forward and backward every weight is sharded; what scores without gradients calls `reshard` behind itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from zephyr.errors import DeviceError, ModelError
from zephyr.models.collectives import is_distributed, on_every_rank, rank, world_size
from zephyr.models.loading import check_finite_weights
from zephyr.models.scorer import ForestScorer, decoder_layers
from zephyr.models.stored_weights import StoredWeights
from zephyr.models.weight_hash import plain_name
from zephyr.recipe.train_section import TrainSection

T = TypeVar("T")

# (dtype of the weights, dtype of the computation), by precision; `fastest` is one of them once a run has begun.
PRECISION_DTYPES: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bf16": (torch.float32, torch.bfloat16),
    "pure_bf16": (torch.bfloat16, torch.bfloat16),
}
# Rank 0 may read and hash a large model for minutes while the others wait.
TIMEOUT = timedelta(minutes=30)
TEARDOWN_SECONDS = 0.1
EXPERT_DIMENSIONS = 3


def pick_device() -> torch.device:
    """The device of this process: its own accelerator under torchrun, else the first one, else the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


def weights_dtype(train: TrainSection) -> torch.dtype:
    """The dtype of the weights."""
    return PRECISION_DTYPES[train.precision][0]


def compute_dtype(train: TrainSection) -> torch.dtype:
    """The dtype of the computation, which says how far rounding may move a log-prob."""
    return PRECISION_DTYPES[train.precision][1]


@contextmanager
def process_group(device: torch.device, *, name: str = "training", timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Torchrun's process group for as long as the block runs; nothing outside of torchrun.

    Processes that form several groups one after the other give each a name of its own, the same on all ranks: at the
    place where ranks meet the addresses of the last group are still written down, and a rank that finds them waits for
    ever (torch 2.13). Those of ranks that torchrun has restarted are told apart here.
    If a rank fails, the others raise a DeviceError that names it; if one is killed, torchrun's report does. One that
    hangs stops the others after ``timeout``.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    backend = dist.get_default_backend_for_device(device)
    # Objects and CPU tensors go over gloo, whatever carries the gradients.
    backends = "gloo" if backend == "gloo" else f"cpu:gloo,{device.type}:{backend}"
    meeting_place, number, size = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", meeting_place)
    # Bound to its device, a rank cannot take that of another one, and links are made at once.
    bound = None if device.type == "cpu" else device
    dist.init_process_group(backends, store=store, rank=number, world_size=size, timeout=timeout, device_id=bound)
    try:
        yield
    except RuntimeError as error:  # what a collective call raises, too, when another rank has gone
        first = _first_to_fail(store)
        if first == number:
            raise
        where = f"rank {number} of {size}"
        raise DeviceError(where, f"rank {first} has failed", "see the output of that rank") from error
    finally:
        if sys.exception() is not None:
            _first_to_fail(store)
        # A gloo thread drops the tensors of the last collective under Python's lock, and aborts the process if the
        # interpreter has begun to end by then (torch 2.13). Asleep, this thread leaves it the lock.
        time.sleep(TEARDOWN_SECONDS)
        dist.destroy_process_group()


class _Store(Protocol):
    """What the ranks of a process group meet at, and can leave word in."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """The key's value; before that, it is set to ``desired`` if it was ``expected`` or not there."""


def _first_to_fail(store: _Store) -> int:
    """The rank that called this first: the one whose failure is the cause of the others'."""
    return int(store.compare_set("first to fail", "", str(rank())))


def built_on_rank_zero(build: Callable[[], T], build_empty: Callable[[], T]) -> T:
    """What ``build`` gives on rank 0 and ``build_empty`` on the others; a failure is raised on every rank.

    For models too large to be held by every process: ``build`` loads the weights onto the CPU, ``build_empty``
    makes the same architecture on the meta device (``zephyr.models.loading.empty_model``). Training shards both
    together.
    """
    built: list[T] = []
    on_every_rank(lambda: built.append(build() if rank() == 0 else build_empty()))
    return built[0]


def shard(
    scorer: ForestScorer, *, device: torch.device, train: TrainSection, weights: StoredWeights | None = None
) -> None:
    """Shard a scorer over all ranks in place: each decoder layer a unit, the rest (embedding, norm, head) another.

    With ``weights`` all models are on the meta device, but for adapters, and each rank reads its shards from the files.
    Without, ranks may hold all weights, or rank 0 alone holds them and the others made the model on the meta device.
    Then it sends them unit by unit: rank 0 needs room for the whole model on its CPU, and every device, rank 0's too,
    for its shards and the largest unit. Raises ModelError where the ranks' models differ, or a weight that was read is
    not finite.
    """
    _check_can_shard(scorer)
    size = dist.get_world_size()
    empty = on_every_rank(lambda: is_empty(scorer))
    if empty[0] and weights is None:
        raise ModelError("several processes", "the model of rank 0 is on the meta device", "load its weights there")
    mesh = init_device_mesh(device.type, (size,))
    policy = _policy(train)
    layers = decoder_layers(scorer)
    for unit in [*layers, scorer]:
        if any(empty) and weights is None:
            _send_from_rank_zero(unit, device)
        # The root's head is used once its forward has begun and again in the backward pass: keep it gathered.
        fully_shard(
            unit,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=unit is not scorer,
            shard_placement_fn=lambda parameter: shard_placement(parameter, size),
        )
    for layer, following in pairwise(layers):
        # Asked for before this layer computes, not when the host arrives at the next one; backward, it is so anyway.
        assert isinstance(layer, FSDPModule)
        assert isinstance(following, FSDPModule)
        layer.set_modules_to_forward_prefetch([following])
    if weights is not None:
        _read_shards(scorer, weights, device)


def _read_shards(scorer: ForestScorer, weights: StoredWeights, device: torch.device) -> None:
    """Read this rank's part of every weight that is on the meta device from the files; the others stay as they are."""
    model = scorer.transformers_model
    absent = [name for name, tensor in model.state_dict().items() if local_part(tensor).is_meta]
    scorer._apply(  # type: ignore[no-untyped-call]  # noqa: SLF001 - as `to_empty` does
        lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
    )
    held: dict[str, Tensor] = {}
    tensors = model.state_dict()
    for name in absent:
        tensor, local = tensors[name], local_part(tensors[name])
        offsets = _first_index(tensor) if isinstance(tensor, DTensor) else [0] * tensor.ndim
        if local.numel():
            weights.read(plain_name(name), local, offsets)
        held[name] = local
    on_every_rank(lambda: check_finite_weights(held, type(scorer.transformers_model).__name__))


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor of any shape that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _first_index(sharded: DTensor) -> list[int]:
    """Where in the whole tensor, of any shape, this rank's shard begins."""
    (placement,) = sharded.placements
    offsets = [0] * sharded.ndim
    if isinstance(placement, Shard):
        length = sharded.shape[placement.dim]
        offsets[placement.dim] = min(length, rank() * -(-length // world_size()))
    return offsets


def shard_placement(parameter: Tensor, num_ranks: int) -> Shard:
    """The dimension over which a parameter of any shape is cut: the first; of experts (E, out, in) an even one.

    Cut over their first dimension, 8 experts of 32 ranks lie whole on 8 of them. FSDP2 cuts other dimensions than the
    first evenly or not at all (torch 2.13). Rows stay whole: their moments of eight bits have scales in common.
    """
    even = [place for place, length in enumerate(parameter.shape[:-1]) if length % num_ranks == 0]
    return Shard(even[0] if even and parameter.ndim >= EXPERT_DIMENSIONS else 0)


def placed_alike(parameter: DTensor, shape: Sequence[int]) -> tuple[Placement, ...]:
    """How numbers of a shape like the parameter's are placed: cut as it is, or whole where the cut dimension is not."""
    (placement,) = parameter.placements
    is_cut = isinstance(placement, Shard) and shape[placement.dim] == parameter.shape[placement.dim]
    return (placement if is_cut else Replicate(),)


def is_empty(model: nn.Module) -> bool:
    """Whether the model was made on the meta device, without weights."""
    return any(parameter.is_meta for parameter in model.parameters())


def whole_state_dict(model: nn.Module, *, trained_only: bool = False) -> dict[str, Tensor]:
    """The full state dict on the CPU of rank 0 (empty on the others), gathered tensor by tensor; a collective call.

    Tied weights stay one tensor. Without a process group nothing is copied. ``trained_only``: without what is frozen.
    """
    whole: dict[str, Tensor] = {}
    gathered: dict[Tensor, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if trained_only and not tensor.requires_grad:
            continue
        if tensor not in gathered:
            gathered[tensor] = _whole(tensor.detach())
        whole[name] = gathered[tensor]
    return whole if rank() == 0 else {}


def whole_tensors(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of the state dict, of any shape, one after the other; each is gathered as by ``_whole``."""
    state = model.state_dict(keep_vars=True)
    for name in names:
        yield name, _whole(state[name].detach())


def _whole(tensor: Tensor) -> Tensor:
    """The tensor itself in one process; else a whole copy on the CPU of rank 0, and a piece of no meaning elsewhere."""
    if not is_distributed():
        return tensor
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.cpu() if rank() == 0 else tensor


def full_value(value: Tensor) -> Tensor:
    """A scalar tensor, gathered if it is a DTensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _policy(train: TrainSection) -> MixedPrecisionPolicy:
    if train.precision not in ("bf16", "pure_bf16"):
        return MixedPrecisionPolicy()
    reduced = {"float32": torch.float32, "bfloat16": torch.bfloat16}[train.reduce_dtype]
    return MixedPrecisionPolicy(
        param_dtype=None if train.precision == "pure_bf16" else torch.bfloat16, reduce_dtype=reduced
    )


def _check_can_shard(scorer: nn.Module) -> None:
    """Check that all ranks hold the same architecture, which is neither sharded nor quantised yet."""
    if any(isinstance(module, FSDPModule) for module in scorer.modules()):
        raise ValueError("the model is sharded already: build it again for another run")
    quantised = [name for name, p in scorer.named_parameters() if not p.is_floating_point()]
    if quantised:
        raise ModelError(
            "several processes",
            f"quantised weights cannot be sharded, got {quantised[0]}",
            "train with one process, or with LoRA on weights that are not quantised",
        )
    mine = [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in scorer.named_parameters()]
    for number, other in enumerate(on_every_rank(lambda: mine)):
        if other != mine:
            differing = next((a for a, b in zip(mine, other, strict=False) if a != b), "more weights")
            raise ModelError(
                "several processes",
                f"ranks {rank()} and {number} hold different models, the first difference is {differing}",
                "build the same model, with the same adapters and dtype, on every rank",
            )


def _send_from_rank_zero(unit: nn.Module, device: torch.device) -> None:
    """Replace the unit's tensors that are not sharded yet by rank 0's, on the device; tied ones stay one tensor."""
    sent: dict[Tensor, Tensor] = {}
    for module in unit.modules():
        tensors = [
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ]
        for name, tensor in tensors:
            if isinstance(tensor, DTensor):
                continue
            if tensor not in sent:
                sent[tensor] = _sent(tensor, device)
            setattr(module, name, sent[tensor])


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if rank() == 0:
        value = tensor.detach().to(device).contiguous()
    else:
        value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    dist.broadcast(value, src=0)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value
