"""Several processes, one step: torchrun's process group, FSDP2 sharding, and models that only rank 0 can hold.

Without torchrun every function here does what one process needs and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from zephyr.models.scorer import decoder_layers
from zephyr.train.settings import Precision
from zephyr.train.together import is_distributed, rank


def pick_device() -> torch.device:
    """The device of this process: its own accelerator under torchrun, else the first one, else the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Torchrun's process group for as long as the block runs; nothing outside of torchrun."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    backend = dist.get_default_backend_for_device(device)
    # Objects and CPU tensors go over gloo, whatever carries the gradients.
    dist.init_process_group("gloo" if backend == "gloo" else f"cpu:gloo,{device.type}:{backend}")
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard(scorer: nn.Module, *, device: torch.device, precision: Precision) -> None:
    """Shard a scorer over all ranks in place: each decoder layer a unit, the rest (embedding, norm, head) another."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in decoder_layers(scorer):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Its head is used after its forward has begun and again in the backward pass: keep it gathered in between.
    fully_shard(scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def shard_from_rank_zero(scorer: nn.Module, *, device: torch.device, precision: Precision) -> None:
    """Shard a scorer whose weights rank 0 alone holds on its CPU; the other ranks made theirs on the meta device.

    Tensors are sent one after the other, so that no device ever holds the whole model.
    """
    whole = scorer.state_dict() if rank() == 0 else {}
    # Buffers outside the state dict (rotary frequencies) are not sent by torch.
    hidden = dict(_hidden_buffers(scorer)) if rank() == 0 else {}
    if rank() == 0:
        whole = {name: tensor.detach().cpu() for name, tensor in whole.items()}
        scorer.to("meta")
    shard(scorer, device=device, precision=precision)
    scorer.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(scorer, whole, options=options)
    for name, buffer in _hidden_buffers(scorer):
        if rank() == 0:
            buffer.copy_(hidden[name])
        dist.broadcast(buffer, src=0)


def _hidden_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    saved = set(model.state_dict())
    return ((name, buffer) for name, buffer in model.named_buffers() if name not in saved)


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The full state dict on the CPU of rank 0 (empty on the others), tensor by tensor."""
    if not is_distributed():
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(model, options=options))


def full_value(value: Tensor) -> float:
    """A scalar tensor as a number, gathered if it is a DTensor."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)
