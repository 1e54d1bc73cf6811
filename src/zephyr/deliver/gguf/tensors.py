"""A model's weights under llama.cpp's names and in its layout, and its sizes as llama.cpp's settings.

For the architectures that llama.cpp runs as `llama`: Llama, Mistral and Mixtral. Nothing is written here.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from zephyr.deliver.gguf.libraries import Array, Numbers, TensorNames
from zephyr.errors import ModelError

ARCHITECTURE = "llama"
MODEL_TYPES = ("llama", "mistral", "mixtral")
ROPES = ("default", "linear", "llama3")
LARGEST_F16 = 65504.0
_EXPERTS = ".mlp.experts."

Setting: TypeAlias = bool | int | float | str


class Sizes(NamedTuple):
    """What a configuration says about a model, and notes on how llama.cpp runs it."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    settings: dict[str, Setting]  # by llama.cpp's keys
    rope_factors: tuple[float, ...]  # what llama3's rope divides each frequency by; empty for others
    notes: tuple[str, ...]


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


def read_sizes(config: dict[str, object], where: str) -> Sizes:
    """The sizes in a configuration (`PretrainedConfig.to_dict()`). Raises ModelError for what llama.cpp cannot run."""
    _check(config, where)
    heads, hidden = _integer(config, "num_attention_heads"), _integer(config, "hidden_size")
    kv_heads = _integer(config, "num_key_value_heads", heads)
    head_dim = _integer(config, "head_dim", hidden // heads)
    window, longest = config.get("sliding_window"), _integer(config, "max_position_embeddings")
    notes = []
    if isinstance(window, int) and window < longest:
        # llama.cpp's `llama` attends to everything: within the window it computes what the model was trained to.
        notes.append(f"llama.cpp knows no sliding window here: the context is cut from {longest} to {window} tokens")
        longest = window
    settings: dict[str, Setting] = {
        "block_count": _integer(config, "num_hidden_layers"),
        "context_length": longest,
        "embedding_length": hidden,
        "feed_forward_length": _integer(config, "intermediate_size"),
        "vocab_size": _integer(config, "vocab_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": _number(config, "rms_norm_eps"),
        "rope.dimension_count": head_dim,
        "rope.freq_base": _number(_rope(config), "rope_theta"),
    }
    if config["model_type"] == "mixtral":
        settings["expert_count"] = _integer(config, "num_local_experts")
        settings["expert_used_count"] = _integer(config, "num_experts_per_tok")
    if _rope(config).get("rope_type") == "linear":
        settings["rope.scaling.type"] = "linear"
        settings["rope.scaling.factor"] = _number(_rope(config), "factor")
    factors = rope_factors(_rope(config), head_dim) if _rope(config).get("rope_type") == "llama3" else ()
    return Sizes(
        _integer(config, "num_hidden_layers"), heads, kv_heads, head_dim, settings, tuple(factors), tuple(notes)
    )


def rope_factors(rope: dict[str, object], head_dim: int) -> list[float]:
    """What each of Llama 3's frequencies is divided by: 1 for short waves, `factor` for long ones.

    Source: transformers' `_compute_llama3_parameters`, and llama.cpp's converter.
    """
    factor, low, high = (_number(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    longest = _number(rope, "original_max_position_embeddings")
    waves = [2 * np.pi * _number(rope, "rope_theta") ** (2 * i / head_dim) for i in range(head_dim // 2)]
    factors = []
    for wave in waves:
        smooth = (longest / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if wave < longest / high else factor if wave > longest / low else between)
    return factors


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
            yield _named(name, _permuted(source, part, sizes))
    if sizes.rope_factors:
        yield _named("rope_freqs.weight", torch.tensor(sizes.rope_factors, dtype=torch.float32))


def permute(weight: Tensor, num_heads: int) -> Tensor:
    """A query or key weight (num_heads * d, ...), the rows of every head reordered from two halves to pairs.

    transformers rotates dimension i of a head with i + d/2, llama.cpp's `llama` 2i with 2i + 1. Same shape as before.
    """
    rows = weight.shape[0]
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _permuted(key: str, weight: Tensor, sizes: Sizes) -> Tensor:
    if ".self_attn.q_proj." in key:
        return permute(weight, sizes.num_heads)
    return permute(weight, sizes.num_kv_heads) if ".self_attn.k_proj." in key else weight


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


def _check(config: dict[str, object], where: str) -> None:
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(
            where, f"has the architecture '{kind}', which is not supported", f"export {', '.join(MODEL_TYPES)}"
        )
    activation = config.get("hidden_act")
    if activation != "silu":
        raise ModelError(
            where, f"uses the activation {activation}; llama.cpp's {kind} supports only silu", "export another model"
        )
    rope = _rope(config).get("rope_type")
    if rope not in ROPES:
        raise ModelError(where, f"uses RoPE of type '{rope}'", f"export one with {', '.join(ROPES)}")


def _rope(config: dict[str, object]) -> dict[str, object]:
    rope = config.get("rope_parameters")
    return {"rope_type": "default", **rope} if isinstance(rope, dict) else {"rope_type": "default"}


def _integer(config: dict[str, object], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int):
        raise ModelError("config.json", f"has no whole number {name}, got {value!r}", "check the model folder")
    return value


def _number(config: dict[str, object], name: str) -> float:
    value = config.get(name)
    if not isinstance(value, int | float):
        raise ModelError("config.json", f"has no number {name}, got {value!r}", "check the model folder")
    return float(value)
