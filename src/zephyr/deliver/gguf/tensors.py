"""A model's weights under llama.cpp's names and in its layout. Nothing is written here."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zephyr.deliver.gguf.architectures import Sizes
from zephyr.deliver.gguf.libraries import Array, Numbers, TensorNames
from zephyr.errors import ModelError

LARGEST_F16 = 65504.0
_EXPERTS = ".mlp.experts."


class NamedTensor(NamedTuple):
    """One tensor of the file: its name there, its shape as numpy has it, its dtype, and its numbers when wanted."""

    name: str
    shape: tuple[int, ...]
    dtype: Numbers
    load: Callable[[], Array]

    @property
    def num_bytes(self) -> int:
        """How much room its numbers take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def named_tensors(weights: dict[str, Tensor], sizes: Sizes, names: TensorNames, where: str) -> Iterator[NamedTensor]:
    """The tensors of a state dict as the file holds them: matrices (rows, columns) in float16, vectors (n,) in float32.

    Routers are float32 too.

    Raises ModelError for a weight that llama.cpp has no name for, and, when its numbers are loaded, for one that
    float16 cannot hold.
    """
    tied = _is_tied(weights)
    for key, weight in weights.items():
        if key == "lm_head.weight" and tied:
            continue  # llama.cpp takes the embeddings where there is no head
        for source, part in _parts(key, weight):
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise ModelError(where, f"llama.cpp has no name for its weight {key}", "export another model")
            yield _named(name, _as_llama_cpp_computes(source, part, sizes))
    for name, factors in sizes.rope_factors.items():
        yield _named(name, torch.tensor(factors, dtype=torch.float32))


def permute(weight: Tensor, num_heads: int) -> Tensor:
    """A query or key weight (num_heads * d, ...), the rows of every head reordered from two halves to pairs.

    transformers rotates dimension i of a head with i + d/2, some models of llama.cpp 2i with 2i + 1.
    Same shape as before.
    """
    rows = weight.shape[0]
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _as_llama_cpp_computes(key: str, weight: Tensor, sizes: Sizes) -> Tensor:
    facts = sizes.architecture
    if facts.norm_offset and key.endswith("norm.weight"):
        return weight + facts.norm_offset
    if facts.rotates_pairs and ".self_attn.q_proj." in key:
        return permute(weight, sizes.num_heads)
    if facts.rotates_pairs and ".self_attn.k_proj." in key:
        return permute(weight, sizes.num_kv_heads)
    return weight


def _parts(key: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight under names that gguf knows; transformers 5 stacks Mixtral's experts, and their gate upon their up."""
    before, experts, kind = key.partition(_EXPERTS)
    if experts and kind == "gate_up_proj":
        gate, up = weight.chunk(2, dim=1)
        yield f"{before}{experts}gate_proj.weight", gate
        yield f"{before}{experts}up_proj.weight", up
    elif experts:
        yield f"{key}.weight", weight
    else:
        yield key, weight


def _named(name: str, weight: Tensor) -> NamedTensor:
    wide = weight.ndim == 1 or "ffn_gate_inp" in name
    dtype: Numbers = np.dtype(np.float32) if wide else np.dtype(np.float16)

    def load() -> Array:
        if not wide and float(weight.abs().max()) > LARGEST_F16:
            raise ModelError(
                name, f"holds numbers above {LARGEST_F16:g}, the maximum of float16", "export another model"
            )
        array: Array = weight.detach().cpu().to(torch.float32 if wide else torch.float16).contiguous().numpy()
        return array

    return NamedTensor(name, tuple(weight.shape), dtype, load)


def _is_tied(weights: dict[str, Tensor]) -> bool:
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    return head is not None and embedding is not None and head.data_ptr() == embedding.data_ptr()
