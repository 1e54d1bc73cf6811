"""What a model's configuration says, as llama.cpp's settings: a table of facts about the architectures it runs.

A configuration that llama.cpp would run as another model is refused here, before any work. Nothing is written here.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from zephyr.errors import ModelError

Setting: TypeAlias = bool | int | float | str | tuple[bool, ...]
Config: TypeAlias = Mapping[str, object]

_FULL, _SLIDING = "full_attention", "sliding_attention"
_GELU = "gelu_pytorch_tanh"


class Architecture(NamedTuple):
    """How llama.cpp runs one `model_type` of transformers."""

    name: str  # llama.cpp's
    rotates_pairs: bool = False  # of dimensions 2i and 2i + 1 of a head, where transformers rotates i with i + d/2
    activation: str = "silu"
    norm_offset: float = 0.0  # what transformers adds to a norm's weights, and llama.cpp does not
    ropes: tuple[str, ...] = ("default", "linear", "yarn")
    # Layers from one with full attention to the next, unless a file says otherwise; 0: no windows.
    window_period: int = 0
    keys: Mapping[str, str] = {}  # settings of its own: llama.cpp's key -> ours


_LLAMA = Architecture("llama", rotates_pairs=True, ropes=("default", "linear", "yarn", "llama3"))
_EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA._replace(keys=_EXPERTS),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", activation=_GELU, norm_offset=1.0, window_period=2, keys=_CAPS),
    "gemma3_text": Architecture("gemma3", activation=_GELU, norm_offset=1.0, window_period=6, keys=_CAPS),
    "smollm3": Architecture("smollm3", rotates_pairs=True),
    "phi3": Architecture("phi3", ropes=("default", "longrope")),
}
# Layers of SmolLM3 whose number, from 1, it divides have no rotary embedding; llama.cpp knows no other models.
_SMOLLM3_PERIOD = 4


class Sizes(NamedTuple):
    """What a configuration says about a model, and notes on how llama.cpp runs it."""

    architecture: Architecture
    num_layers: int
    num_heads: int
    num_kv_heads: int
    context_length: int
    settings: dict[str, Setting]  # by llama.cpp's keys
    rope_factors: dict[str, tuple[float, ...]]  # tensors of the file that say what each frequency is divided by
    notes: tuple[str, ...]


def read_sizes(config: Config, where: str) -> Sizes:
    """The sizes in a configuration (`PretrainedConfig.to_dict()`). Raises ModelError for what llama.cpp cannot run."""
    architecture = _checked(config, where)
    heads, hidden = _integer(config, "num_attention_heads"), _integer(config, "hidden_size")
    kv_heads = _integer(config, "num_key_value_heads", heads)
    head_dim = _integer(config, "head_dim", hidden // heads)
    layers, longest = _integer(config, "num_hidden_layers"), _integer(config, "max_position_embeddings")
    window, rope = config.get("sliding_window"), _rope(config)
    notes = []
    if isinstance(window, int) and window < longest and not architecture.window_period:
        # llama.cpp attends to everything: within the window it computes what the model was trained to.
        notes.append(f"llama.cpp knows no sliding window here: the context is cut from {longest} to {window} tokens")
        longest = window
    settings: dict[str, Setting] = {
        "block_count": layers,
        "context_length": longest,
        "embedding_length": hidden,
        "feed_forward_length": _integer(config, "intermediate_size"),
        "vocab_size": _integer(config, "vocab_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": _number(config, "rms_norm_eps"),
        "rope.dimension_count": int(head_dim * _number(rope, "partial_rotary_factor", 1.0)),
        "rope.freq_base": _number(rope, "rope_theta"),
    }
    for key, ours in architecture.keys.items():
        if isinstance(value := config.get(ours), int | float):
            settings[key] = value
    settings.update(_windows(config, architecture))
    settings.update(_scaling(rope, _integer(config, "max_position_embeddings")))
    return Sizes(architecture, layers, heads, kv_heads, longest, settings, _factors(rope, head_dim), tuple(notes))


def llama3_factors(rope: Config, head_dim: int) -> tuple[float, ...]:
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
    return tuple(factors)


def _factors(rope: Config, head_dim: int) -> dict[str, tuple[float, ...]]:
    match rope["rope_type"]:
        case "llama3":
            return {"rope_freqs.weight": llama3_factors(rope, head_dim)}
        case "longrope":
            return {f"rope_factors_{kind}.weight": _numbers(rope, f"{kind}_factor") for kind in ("long", "short")}
        case _:
            return {}


def _scaling(rope: Config, longest: int) -> Iterator[tuple[str, Setting]]:
    """Settings of a rotary embedding for longer texts than the model was first trained on.

    Source: transformers' `_compute_yarn_parameters` and `_compute_longrope_parameters`.
    """
    kind = rope["rope_type"]
    first = _number(rope, "original_max_position_embeddings", longest)
    stretch = _number(rope, "factor", longest / first)
    if kind in ("linear", "yarn"):
        yield "rope.scaling.type", str(kind)
        yield "rope.scaling.factor", stretch
    if kind in ("yarn", "longrope"):
        yield "rope.scaling.original_context_length", int(first)
    if kind == "longrope":
        default = math.sqrt(1 + math.log(stretch) / math.log(first)) if stretch > 1 else 1.0
        yield "rope.scaling.attn_factor", _number(rope, "attention_factor", default)


def _windows(config: Config, architecture: Architecture) -> Iterator[tuple[str, Setting]]:
    """Which layers attend to how many tokens, where llama.cpp can do it."""
    kinds = _layer_kinds(config)
    if not architecture.window_period or _SLIDING not in kinds:
        return
    yield "attention.sliding_window", _integer(config, "sliding_window")
    usual = [_FULL if i % architecture.window_period == 0 else _SLIDING for i in range(1, len(kinds) + 1)]
    if kinds != usual:
        # Only where it must: older llama.cpp knows the usual order alone.
        yield "attention.sliding_window_pattern", tuple(kind == _SLIDING for kind in kinds)
    ropes = config.get("rope_parameters")
    if isinstance(ropes, dict) and _SLIDING in ropes:
        yield "rope.freq_base_swa", _number(ropes[_SLIDING], "rope_theta")


def _checked(config: Config, where: str) -> Architecture:
    """The architecture of a configuration. Raises ModelError for what llama.cpp runs otherwise, or not at all."""
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise ModelError(
            where, f"has the architecture '{kind}', which is not supported", f"export {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[kind]
    activation = config.get("hidden_activation", config.get("hidden_act"))
    if activation != architecture.activation:
        what = f"uses the activation {activation}; llama.cpp's {kind} supports only {architecture.activation}"
        raise ModelError(where, what, "export another model")
    rope = _rope(config)["rope_type"]
    if rope not in architecture.ropes:
        what = f"uses RoPE of type '{rope}', with which llama.cpp does not run {kind}"
        raise ModelError(where, what, f"export one with {', '.join(architecture.ropes)}")
    for fault in _differences(config, kind):
        raise ModelError(where, f"{fault}, which llama.cpp's {kind} does not do", "export another model")
    return architecture


def _differences(config: Config, kind: str) -> Iterator[str]:
    """What llama.cpp computes otherwise: it derives these facts, and has no settings for them."""
    layers = _integer(config, "num_hidden_layers")
    if kind == "smollm3":
        rotates = config.get("no_rope_layers")  # 1: the layer has a rotary embedding, in spite of the name
        if rotates != [int(i % _SMOLLM3_PERIOD > 0) for i in range(1, layers + 1)]:
            yield f"leaves out rotary embeddings elsewhere than in every layer {_SMOLLM3_PERIOD}"
    if kind.startswith("gemma"):
        # llama.cpp knows the 27B models by their number of layers, and takes the width of their heads otherwise.
        largest = layers == {"gemma2": 46, "gemma3_text": 62}[kind]
        heads = _integer(config, "num_attention_heads")
        wanted = _integer(config, "hidden_size") // heads if largest else _integer(config, "head_dim")
        if config.get("query_pre_attn_scalar") != wanted:
            yield f"scales attention by {config.get('query_pre_attn_scalar')} instead of {wanted}"
        if config.get("use_bidirectional_attention"):
            yield "attends to later tokens"
        sliding = _nested_rope(config, _SLIDING)
        if sliding is not None and sliding.get("rope_type", "default") != "default":
            yield f"uses RoPE of type '{sliding['rope_type']}' within its windows"


def _layer_kinds(config: Config) -> list[str]:
    kinds = config.get("layer_types")
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else []


def _rope(config: Config) -> Config:
    """The rotary embedding; of layers with full attention, where there are others."""
    rope = _nested_rope(config, _FULL) or config.get("rope_parameters")
    return {"rope_type": "default", **rope} if isinstance(rope, dict) else {"rope_type": "default"}


def _nested_rope(config: Config, kind: str) -> dict[str, object] | None:
    ropes = config.get("rope_parameters")
    rope = ropes.get(kind) if isinstance(ropes, dict) else None
    return rope if isinstance(rope, dict) else None


def _integer(config: Config, name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int):
        raise ModelError("config.json", f"has no whole number {name}, got {value!r}", "check the model folder")
    return value


def _number(config: Config, name: str, default: float | None = None) -> float:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float):
        raise ModelError("config.json", f"has no number {name}, got {value!r}", "check the model folder")
    return float(value)


def _numbers(config: Config, name: str) -> tuple[float, ...]:
    values = config.get(name)
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise ModelError("config.json", f"has no numbers {name}, got {values!r}", "check the model folder")
    return tuple(map(float, values))
