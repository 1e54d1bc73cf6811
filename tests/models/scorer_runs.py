"""Sequences, models and scores that the tests of the scorer share."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import peft
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import TINY, tiny_model
from zephyr.trees.forest import ScoredSequence, all_scored, build_forest, completion_scored

IN_FLOAT64 = [name for name, architecture in TINY.items() if architecture.float64]


SHARING = [name for name, architecture in TINY.items() if not architecture.stateful]


STATEFUL = [name for name, architecture in TINY.items() if architecture.stateful]


SLIDING = [name for name, architecture in TINY.items() if architecture.sliding]


class Outcome(NamedTuple):
    """Log-probabilities of the sequences, and the gradient of their weighted sum by parameter name."""

    logps: Tensor
    gradients: dict[str, Tensor]


def draw(rng: np.random.Generator, length: int) -> list[int]:
    return rng.integers(4, 128, length).tolist()


def company() -> list[ScoredSequence]:
    """Two prompts with completions that fork, stop early, are empty or equal; most outgrow a window of 8."""
    rng = np.random.default_rng(0)
    prompt, other = draw(rng, 13), draw(rng, 3)
    chosen = draw(rng, 6)
    rejected = chosen[:3] + draw(rng, 4)
    completions = [chosen, rejected, [], chosen[:2], chosen]
    return [
        *(completion_scored(prompt, completion) for completion in completions),
        all_scored(prompt + chosen),
        completion_scored(other, draw(rng, 12)),
        completion_scored(other, draw(rng, 3)),
        all_scored([7]),
        all_scored([]),
    ]


def coefficients(count: int) -> Tensor:
    return torch.linspace(-1.0, 2.0, count, dtype=torch.float64)


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """By parameter name, without the scorer's own prefix; zeros where no gradient came."""
    return {
        name.removeprefix("causal_lm."): torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in module.named_parameters()
    }


def packed(scorer: ForestScorer, sequences: list[ScoredSequence]) -> Outcome:
    scorer.zero_grad()
    logps = scorer(build_forest(sequences)).logps
    (coefficients(len(sequences)) * logps).sum().backward()
    return Outcome(logps.detach(), gradients_of(scorer))


def one_at_a_time(scorer: ForestScorer, sequences: list[ScoredSequence]) -> Outcome:
    scorer.zero_grad()
    logps = torch.zeros(len(sequences), dtype=torch.float64)
    for number, coefficient in enumerate(coefficients(len(sequences))):
        if len(sequences[number].ids):
            alone = scorer(build_forest([sequences[number]])).logps[0]
            (coefficient * alone).backward()
            logps[number] = alone.detach()
    return Outcome(logps, gradients_of(scorer))


def logps_by_transformers(model: nn.Module, sequence: ScoredSequence) -> Tensor:
    """Sum of the scored tokens' log-probabilities by the model's own forward and a plain log softmax."""
    ids = torch.from_numpy(sequence.ids)[None]
    logps = model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
    chosen = logps[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
    return chosen[torch.from_numpy(sequence.scored[1:])].sum()


def by_transformers(model: PreTrainedModel, sequences: list[ScoredSequence]) -> Outcome:
    model.zero_grad()
    logps = torch.zeros(len(sequences), dtype=torch.float64)
    for number, coefficient in enumerate(coefficients(len(sequences))):
        if sequences[number].scored.any():
            alone = logps_by_transformers(model, sequences[number])
            (coefficient * alone).backward()
            logps[number] = alone.detach()
    return Outcome(logps, gradients_of(model))


def assert_same(ours: Outcome, theirs: Outcome, *, tolerance: float) -> None:
    """Equal to ``tolerance``, relative to each log-probability and to the largest entry of each gradient."""
    torch.testing.assert_close(ours.logps, theirs.logps, rtol=tolerance, atol=0)
    assert ours.gradients.keys() == theirs.gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.gradients.values())
    for name, right in theirs.gradients.items():
        # The gradient of an attention's key bias is 0 but for rounding: nothing to be relative to.
        scale = max(float(right.abs().max()), 1e-3 * largest)
        error = float((ours.gradients[name] - right).abs().max()) / scale
        assert error <= tolerance, f"gradient of {name} is off by {error:.1e}"


def lora_model(*targets: str, name: str = "mistral", **options: object) -> peft.PeftModel:
    """A tiny model with random LoRA matrices, none of them zero, in eval mode."""
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **options)
    return peft.get_peft_model(tiny_model(name), config).eval()


def scored_by_transformers(model: nn.Module, sequences: Iterable[ScoredSequence]) -> Tensor:
    scored = [s for s in sequences if s.scored.any()]
    with torch.no_grad():
        return torch.stack([logps_by_transformers(model, sequence) for sequence in scored])


def scored_by_us(scorer: ForestScorer, sequences: list[ScoredSequence]) -> Tensor:
    with torch.no_grad():
        scores = scorer(build_forest(sequences))
    return scores.logps[scores.num_tokens > 0]


def changed_model(name: str, **settings: object) -> PreTrainedModel:
    """A tiny architecture with other settings in its config, random weights, in training mode."""
    config = tiny_model(name).config
    changed = type(config).from_dict({**config.to_dict(), **settings})
    return AutoModelForCausalLM.from_config(changed).train()


def small_model(name: str, **settings: object) -> PreTrainedModel:
    """A random model of an architecture outside the table, by the prefix of its config's class."""
    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    config = getattr(transformers, f"{name}Config")(**sizes | SPECIAL_SIZES.get(name, {}) | settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()


SPECIAL_SIZES: dict[str, dict[str, object]] = {
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2, "dropout": 0.0},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "Phimoe": {"num_local_experts": 4},
    "RecurrentGemma": {"num_hidden_layers": 3, "lru_width": 32, "intermediate_size": 96},
}


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
