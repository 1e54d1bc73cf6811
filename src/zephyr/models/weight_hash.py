"""The hash of a model's weights."""

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def weights_hash(model: nn.Module, *, adapters: bool = True) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all parameters and persistent buffers, in hexadecimal.

    Independent of the order of modules and of the device. Without `adapters`, a model wrapped by peft has the
    hash of the plain model under its adapters. Sharded tensors are gathered, so all ranks must take part.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if adapters or not is_adapter(name):
            tensors[name if adapters else plain_name(name)] = tensor
    names = sorted(tensors)
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        digests = [tensor_digest(tensors[name]) for name in names]  # in the same order on every rank
    else:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing frees the GIL
            digests = list(pool.map(tensor_digest, (tensors[name] for name in names)))
    return combined_hash(tensors, dict(zip(names, digests, strict=True)))


def combined_hash(tensors: Mapping[str, Tensor], digests: Mapping[str, str]) -> str:
    """The hash of tensors of any shape, given the SHA-256 of each one's bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name}\t{tensors[name].dtype}\t{tuple(tensors[name].shape)}\t{digests[name]}\n".encode())
    return total.hexdigest()


def is_adapter(name: str) -> bool:
    """Whether a weight of this name was added to a model by peft."""
    return "lora_" in name or ".modules_to_save." in name


def plain_name(name: str) -> str:
    """The name that a weight, or the one it is a copy of, had before peft wrapped the model, once or more often."""
    parts = re.sub(r"\.modules_to_save\.\w+", "", name.removeprefix("base_model.model.")).split(".")
    return ".".join(part for part in parts if part not in ("base_layer", "original_module"))


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over the bytes of a tensor of any shape, in hexadecimal. Raises ValueError on the meta device."""
    if tensor.is_meta:
        raise ValueError("a model on the meta device has no weights to hash")
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    flat = whole.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()
