"""The sizes of a model from its configuration, and what follows: parameters, active parameters, cache."""

from collections.abc import Mapping
from dataclasses import dataclass

from zephyr.recipe.model_section import NewModel
from zephyr.records.fields import Json

# Fields of configurations, by the name they have in most; GPT-2's family has names of its own.
_NAMES = {
    "hidden_size": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
}
_PLAIN_MLP = ("gpt2", "starcoder2", "opt", "gpt_neox")
# Experts of a new mixture: all, and those of a token.
MIXTRAL_EXPERTS = (8, 2)
_TIED_BY_DEFAULT = ("gpt2", "gemma", "gemma2", "gemma3_text", "starcoder2", "opt")


@dataclass(frozen=True)
class ModelShape:
    """A decoder's sizes. Its norms and biases count as norms alone: biases are less than a thousandth."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int = 1
    experts_per_token: int = 1
    gated: bool = True
    tied: bool = False
    sliding_window: int | None = None

    @property
    def expert_parameters(self) -> int:
        """Weights of one feed-forward block of one layer."""
        return (3 if self.gated else 2) * self.hidden_size * self.intermediate_size

    @property
    def attention_parameters(self) -> int:
        """Weights of the four projections of one layer."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def layer_parameters(self) -> int:
        """All weights of one layer: attention, experts, router, two norms."""
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        return self.attention_parameters + self.num_experts * self.expert_parameters + router + 2 * self.hidden_size

    @property
    def table_parameters(self) -> int:
        """Weights of the embedding, and of the output head where it is another one."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.num_layers * self.layer_parameters + self.table_parameters + self.hidden_size

    @property
    def active_parameters(self) -> int:
        """The weights that one token meets: all but the experts that are not chosen."""
        idle = self.num_experts - self.experts_per_token
        return self.parameters - self.num_layers * idle * self.expert_parameters

    @property
    def multiplied_parameters(self) -> int:
        """Active weights of the layers, with which every token is multiplied; tables and norms are not among them."""
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        return self.num_layers * (self.attention_parameters + self.experts_per_token * self.expert_parameters + router)

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in two-byte numbers."""
        return 2 * 2 * self.num_layers * self.num_kv_heads * self.head_dim


def shape_of(config: Mapping[str, Json]) -> ModelShape:
    """The model shape in a `config.json`. Raises ValueError naming the missing fields."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = text
    sizes = {name: _number(config, *names) for name, names in _NAMES.items()}
    vocab_size, kind = _number(config, "vocab_size"), str(config.get("model_type", ""))
    missing = [name for name, size in {**sizes, "vocab_size": vocab_size}.items() if not size]
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(missing)}")
    hidden, num_heads = sizes["hidden_size"], sizes["num_heads"]
    experts = _number(config, "num_local_experts", "num_experts") or 1
    # Experts may have a width of their own.
    narrow = _number(config, "moe_intermediate_size") if experts > 1 else 0
    return ModelShape(
        vocab_size=vocab_size,
        intermediate_size=narrow or _number(config, "intermediate_size", "n_inner") or 4 * hidden,
        num_kv_heads=_number(config, "num_key_value_heads") or num_heads,
        head_dim=_number(config, "head_dim") or hidden // num_heads,
        num_experts=experts,
        experts_per_token=_number(config, "num_experts_per_tok") or 1,
        gated=kind not in _PLAIN_MLP,
        tied=bool(config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT)),
        sliding_window=_number(config, "sliding_window") or None,
        **sizes,
    )


def shape_of_new(model: NewModel) -> ModelShape:
    """The shape of a new model; of a mixture the experts are those of transformers' defaults."""
    num_experts, experts_per_token = MIXTRAL_EXPERTS if model.architecture == "mixtral" else (1, 1)
    return ModelShape(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_layers=model.num_hidden_layers,
        num_heads=model.num_attention_heads,
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.hidden_size // model.num_attention_heads,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
    )


def _number(config: Mapping[str, Json], *names: str) -> int:
    """The first of these fields that holds a number; 0 where none does."""
    found = (config.get(name) for name in names)
    return next((int(value) for value in found if isinstance(value, int | float) and value), 0)


_MISTRAL_7B = ModelShape(32000, 4096, 14336, 32, 32, 8, 128, sliding_window=4096)
_MIXTRAL_8X22B = ModelShape(32000, 6144, 16384, 56, 48, 8, 128, num_experts=8, experts_per_token=2)
_SMOLLM3 = ModelShape(128256, 2048, 11008, 36, 16, 4, 128, tied=True)
# Shapes of hub models that recipes name, so that a plan needs no network: their published configurations.
KNOWN_SHAPES = {
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "mistral-community/Mixtral-8x22B-v0.1": _MIXTRAL_8X22B,
    "google/gemma-7b": ModelShape(256000, 3072, 24576, 28, 16, 16, 256, tied=True),
    "bigcode/starcoder2-15b": ModelShape(49152, 6144, 24576, 40, 48, 4, 128, gated=False, sliding_window=4096),
    "HuggingFaceTB/SmolLM2-1.7B": ModelShape(49152, 2048, 8192, 24, 32, 32, 64, tied=True),
    "HuggingFaceTB/SmolLM2-135M": ModelShape(49152, 576, 1536, 30, 9, 3, 64, tied=True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(49152, 576, 1536, 30, 9, 3, 64, tied=True),
    "HuggingFaceTB/SmolLM2-360M": ModelShape(49152, 960, 2560, 32, 15, 5, 64, tied=True),
    "HuggingFaceTB/SmolLM3-3B-Base": _SMOLLM3,
    "HuggingFaceTB/SmolLM3-3B-checkpoints": _SMOLLM3,
}
