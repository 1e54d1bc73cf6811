"""Tiny random models of every supported architecture, and a tokenizer for them; nothing is downloaded.

They serve the tests, the dry runs of the benchmarks and the demo. Their weights are drawn wide (standard
deviation 0.2), and windows, soft caps and multipliers are set so that code which forgets one of them gives
visibly other numbers. Real checkpoints are read by `loading`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from zephyr.errors import did_you_mean
from zephyr.models.loading import caps_scores
from zephyr.models.tokenizers import learn_tokenizer

NUM_HEADS = 4
NUM_KV_HEADS = 2
MAX_POSITIONS = 2048
UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3


class TinyShape(NamedTuple):
    """The sizes of one tiny model."""

    vocab_size: int
    hidden: int
    layers: int
    sliding_window: int | None

    @property
    def head_dim(self) -> int:
        """Features per attention head."""
        return self.hidden // NUM_HEADS


class TinyArchitecture(NamedTuple):
    """How to configure one architecture, and what a reader of the table must know about it."""

    config_class: type[PretrainedConfig]
    settings: Callable[[TinyShape], dict[str, object]]
    stateful: bool = False  # layers carry a recurrent state: no prefix sharing
    sliding: bool = False  # some layers see `sliding_window` tokens only
    float64: bool = True  # False: an operator of this architecture computes in float32 or less


def _tokens(shape: TinyShape) -> dict[str, object]:
    # No pad id: it would zero an embedding row and its gradient.
    return {
        "vocab_size": shape.vocab_size,
        "initializer_range": 0.2,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": None,
    }


def _attention(shape: TinyShape) -> dict[str, object]:
    return {
        **_tokens(shape),
        "hidden_size": shape.hidden,
        "intermediate_size": 2 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "max_position_embeddings": MAX_POSITIONS,
    }


def _mistral(shape: TinyShape) -> dict[str, object]:
    return {**_attention(shape), "sliding_window": shape.sliding_window}


def _mixtral(shape: TinyShape) -> dict[str, object]:
    return {**_attention(shape), "num_local_experts": 4, "num_experts_per_tok": 2}


def _qwen3(shape: TinyShape) -> dict[str, object]:
    return {**_attention(shape), "head_dim": shape.head_dim}


def _gemma3_text(shape: TinyShape) -> dict[str, object]:
    sliding = "full_attention" if shape.sliding_window is None else "sliding_attention"
    return {
        **_attention(shape),
        "head_dim": shape.head_dim,
        "query_pre_attn_scalar": shape.head_dim,
        "sliding_window": shape.sliding_window or MAX_POSITIONS,
        "layer_types": _alternate(shape, sliding),
    }


def _gemma2(shape: TinyShape) -> dict[str, object]:
    return {**_gemma3_text(shape), "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0}


def _phi3(shape: TinyShape) -> dict[str, object]:
    return {**_mistral(shape), "original_max_position_embeddings": MAX_POSITIONS}


def _smollm3(shape: TinyShape) -> dict[str, object]:
    return {**_attention(shape), "no_rope_layer_interval": 2}


def _granite(shape: TinyShape) -> dict[str, object]:
    multipliers = {"embedding_multiplier": 2.0, "residual_multiplier": 0.7, "attention_multiplier": 0.4}
    return {**_attention(shape), **multipliers, "logits_scaling": 3.0}


def _gpt2(shape: TinyShape) -> dict[str, object]:
    sizes = {
        "n_positions": MAX_POSITIONS,
        "n_embd": shape.hidden,
        "n_layer": shape.layers,
        "n_head": NUM_HEADS,
    }
    return {**_tokens(shape), **sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _mamba(shape: TinyShape) -> dict[str, object]:
    return {**_tokens(shape), "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "state_size": 4}


def _qwen3_next(shape: TinyShape) -> dict[str, object]:
    return {
        **_qwen3(shape),
        "layer_types": _alternate(shape, "linear_attention"),
        "linear_key_head_dim": shape.head_dim,
        "linear_value_head_dim": shape.head_dim,
        "linear_num_key_heads": NUM_KV_HEADS,
        "linear_num_value_heads": NUM_HEADS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": shape.hidden,
        "shared_expert_intermediate_size": shape.hidden,
    }


def _alternate(shape: TinyShape, kind: str) -> list[str]:
    """The kind of each layer: `kind`, full, `kind`, full, and so on."""
    return ["full_attention" if i % 2 else kind for i in range(shape.layers)]


TINY: Mapping[str, TinyArchitecture] = {
    "mistral": TinyArchitecture(transformers.MistralConfig, _mistral, sliding=True),
    "mixtral": TinyArchitecture(transformers.MixtralConfig, _mixtral, float64=False),
    "llama": TinyArchitecture(transformers.LlamaConfig, _attention),
    "qwen2": TinyArchitecture(transformers.Qwen2Config, _attention),
    "qwen3": TinyArchitecture(transformers.Qwen3Config, _qwen3),
    "gemma2": TinyArchitecture(transformers.Gemma2Config, _gemma2, sliding=True),
    "gemma3_text": TinyArchitecture(transformers.Gemma3TextConfig, _gemma3_text, sliding=True),
    "phi3": TinyArchitecture(transformers.Phi3Config, _phi3, sliding=True),
    "smollm3": TinyArchitecture(transformers.SmolLM3Config, _smollm3),
    "olmo2": TinyArchitecture(transformers.Olmo2Config, _attention),
    "gpt2": TinyArchitecture(transformers.GPT2Config, _gpt2),
    "granite": TinyArchitecture(transformers.GraniteConfig, _granite),
    "mamba": TinyArchitecture(transformers.MambaConfig, _mamba, stateful=True, float64=False),
    "qwen3_next": TinyArchitecture(transformers.Qwen3NextConfig, _qwen3_next, stateful=True, float64=False),
}


def tiny_model(
    name: str,
    *,
    seed: int = 0,
    vocab_size: int = 128,
    hidden: int = 32,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    sliding_window: int | None = 8,
) -> PreTrainedModel:
    """A random model of architecture `name` in eval mode; the same arguments give the same weights.

    The weights are drawn in float32 and then cast, so two dtypes hold the same model; biases and norms are
    drawn too, and torch's own RNG is left alone. `sliding_window` counts where `TINY[name].sliding`; None
    makes all layers full. Raises ValueError for an unknown name or width.
    """
    if name not in TINY:
        raise ValueError(f"no tiny model named '{name}'{did_you_mean(name, TINY)}")
    if hidden % (2 * NUM_HEADS):
        raise ValueError(f"hidden must be a multiple of {2 * NUM_HEADS}, got {hidden}")
    architecture = TINY[name]
    config = architecture.config_class.from_dict(
        architecture.settings(TinyShape(vocab_size, hidden, layers, sliding_window))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation="eager" if caps_scores(config) else None
        )
        _spread_vectors(model)
    module: nn.Module = model  # transformers wraps `to` and `eval` without their types
    module.to(dtype)
    module.eval()
    return model


def _spread_vectors(model: PreTrainedModel) -> None:
    """Move biases and norm weights off their 0 and 1, in place, so that code which skips one is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


TINY_SENTENCES = (
    "You are a friendly chatbot who always answers in short and plain sentences.",
    "What is the capital of France? The capital of France is Paris.",
    "How many legs does a spider have? A spider has eight legs.",
    "Write a poem about the sea. The sea is wide, the sea is deep, and in its waves the sailors sleep.",
    "Explain why the sky is blue. The air scatters blue light more than red light.",
    "Translate the sentence 'I am hungry' into German. Ich habe Hunger.",
    "Give three tips for staying healthy: eat well, sleep enough, and move every day.",
    "def add(x, y):\n    return x + y",
    "The quick brown fox jumps over the lazy dog; 0 1 2 3 4 5 6 7 8 9.",
    "This answer is better because it is correct, complete and honest.",
    "<|system|>\n<|user|>\n<|assistant|>\n",
)

# The layout of the Zephyr models: a header line per message, an end-of-sequence token after it.
TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    "{% endfor %}"
)


def tiny_tokenizer(*, vocab_size: int = 384) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocab_size` ids, without loss on any text, that puts a bos first."""
    tokenizer = learn_tokenizer(TINY_SENTENCES, vocab_size=vocab_size, max_length=MAX_POSITIONS, split_digits=False)
    tokenizer.chat_template = TINY_CHAT_TEMPLATE
    return tokenizer
