"""The models that are measured, and how much work a step of them needs at the least."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from task import Pair


@dataclass(frozen=True)
class Shape:
    """A Mistral-shaped decoder."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int = 32_000

    @property
    def attention_size(self) -> int:
        """Width of all query heads together, which is the hidden size of every shape here."""
        return self.hidden_size

    @property
    def matrix_weights(self) -> int:
        """Weights every token is multiplied with: the layers' seven matrices, not embeddings and head."""
        kv_size = self.attention_size * self.num_key_value_heads // self.num_attention_heads
        attention = 2 * self.hidden_size * (self.attention_size + kv_size)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def num_parameters(self) -> int:
        """All weights, embeddings and untied head and norms among them."""
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return self.matrix_weights + 2 * self.vocab_size * self.hidden_size + norms


SHAPES = {
    "tiny": Shape(64, 2, 4, 2, 176),
    "small": Shape(256, 4, 4, 2, 704),
    "56m": Shape(512, 8, 8, 4, 1408),
    "135m": Shape(576, 30, 9, 3, 1536, 49_152),  # that of SmolLM2
    "360m": Shape(960, 32, 15, 5, 2560, 49_152),
    "1b": Shape(2048, 20, 16, 8, 5632),
    "mistral-7b": Shape(4096, 32, 32, 8, 14336),
}


def save_random_model(shape: Shape, folder: Path, dtype: str = "float32", device: str = "cpu") -> None:
    """Write a model of ``shape``, its weights drawn on the device from seed 0, for both sides to load."""
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig
    from transformers.utils.logging import disable_progress_bar

    config = MistralConfig(
        **asdict(shape),
        max_position_embeddings=8192,
        rope_theta=10_000.0,
        sliding_window=None,
        tie_word_embeddings=False,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
    )
    disable_progress_bar()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)


class Work(NamedTuple):
    """What one optimizer step cannot avoid: every distinct prefix once."""

    tokens: int  # distinct prefixes
    depth: int  # sum of their lengths, i.e. of query-key pairs a head must compute
    scored: int  # distinct scored tokens, i.e. rows of logits

    def forward_flops(self, shape: Shape) -> float:
        """Multiplications and additions of one forward pass over this work: matrices, attention, head."""
        matrices = 2 * shape.matrix_weights * self.tokens
        attention = 4 * shape.num_hidden_layers * shape.attention_size * self.depth
        return float(matrices + attention + 2 * shape.vocab_size * shape.hidden_size * self.scored)


def step_work(pairs: Sequence[Pair], objective: str) -> Work:
    """The work of an optimizer step on ``pairs``, in the trie of all its sequences."""
    sequences = [(pair.prompt + pair.chosen, _first_scored(pair, objective)) for pair in pairs]
    if objective != "sft":
        sequences += [(pair.prompt + pair.rejected, _first_scored(pair, objective)) for pair in pairs]
    if objective == "kto":  # what estimates its KL term: another prompt's answer behind every prompt
        for pair, other in zip(pairs, [*pairs[1:], *pairs[:1]], strict=True):
            sequences += [(pair.prompt + answer, len(pair.prompt)) for answer in (other.chosen, other.rejected)]
    tokens = depth = scored = 0
    previous: list[int] = []
    for ids, first_scored in sorted(sequences):
        shared = _common_prefix(previous, ids)
        tokens += len(ids) - shared
        depth += sum(range(shared + 1, len(ids) + 1))
        scored += len(ids) - max(shared, first_scored)
        previous = ids
    return Work(tokens, depth, scored)


def step_passes(*, lora: bool) -> int:
    """Forward passes that one step is worth: forward, and backward as much again a kind of gradient.

    Where adapters learn, no gradient of the large weights is needed; what the adapters cost themselves is left out.
    """
    return 2 if lora else 3


def training_flops(
    pairs: Sequence[Pair], pairs_per_step: int, objective: str, shape: Shape, *, lora: bool = False
) -> float:
    """FLOPs of one epoch: the steps, and the reference's forward of DPO and KTO; no recomputation."""
    steps = (pairs[start : start + pairs_per_step] for start in range(0, len(pairs), pairs_per_step))
    passes = step_passes(lora=lora) + (objective in ("dpo", "kto"))
    return passes * sum(step_work(step, objective).forward_flops(shape) for step in steps)


def needed_tokens(pairs: Sequence[Pair], objective: str) -> int:
    """Real tokens a step is fed, the prompt of a pair counted once: the same number for both sides."""
    completions = sum(len(pair.chosen) + (0 if objective == "sft" else len(pair.rejected)) for pair in pairs)
    return sum(len(pair.prompt) for pair in pairs) + completions


def _first_scored(pair: Pair, objective: str) -> int:
    """SFT and ORPO's likelihood term score the prompt too, all but its first token."""
    return 1 if objective in ("sft", "orpo") else len(pair.prompt)


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
