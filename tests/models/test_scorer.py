"""Shared scores equal those of one sequence at a time and of transformers, for every architecture."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.models.exact_norms import float64_model
from zephyr.errors import ModelError
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


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_sharing_changes_nothing_in_float64(name: str) -> None:
    scorer = ForestScorer(float64_model(name))
    assert_same(packed(scorer, company()), one_at_a_time(scorer, company()), tolerance=1e-12)


@pytest.mark.parametrize("name", TINY)
def test_sharing_changes_nothing_in_float32(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    assert_same(packed(scorer, company()), one_at_a_time(scorer, company()), tolerance=1e-5)


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_scores_equal_eager_attention_of_transformers(name: str) -> None:
    """To 1e-6 and no closer, for eager attention takes its softmax in float32."""
    eager = float64_model(name)
    eager.set_attn_implementation("eager")
    ours = packed(ForestScorer(float64_model(name)), company())
    assert_same(ours, by_transformers(eager, company()), tolerance=1e-6)


@pytest.mark.parametrize("name", [name for name in TINY if name not in IN_FLOAT64])
def test_scores_equal_transformers_in_float32(name: str) -> None:
    theirs = tiny_model(name)
    if name in SHARING:
        theirs.set_attn_implementation("eager")
    assert_same(packed(ForestScorer(tiny_model(name)), company()), by_transformers(theirs, company()), tolerance=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_order_of_sequences_changes_nothing(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    order = np.random.default_rng(1).permutation(len(company()))
    with torch.no_grad():
        straight = scorer(build_forest(company())).logps
        shuffled = scorer(build_forest([company()[place] for place in order])).logps
    torch.testing.assert_close(shuffled, straight[torch.from_numpy(order)], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", TINY)
def test_another_last_token_changes_no_other_sequence_by_a_bit(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    rng = np.random.default_rng(2)
    prompt, completions, stranger = draw(rng, 15), [draw(rng, length) for length in (9, 6, 12)], draw(rng, 20)
    before, after = [*completions[1][:-1], 1], [*completions[1][:-1], 2]

    def logps(changed: list[int]) -> list[float]:
        shared = [completions[0], changed, completions[2]]
        sequences = [completion_scored(prompt, completion) for completion in shared] + [all_scored(stranger)]
        with torch.no_grad():
            return scorer(build_forest(sequences)).logps.tolist()

    same = [first == second for first, second in zip(logps(before), logps(after), strict=True)]
    assert same == [True, False, True, True]


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_window_bites(name: str) -> None:
    """The tests above would not see a forgotten window if the sequences were no longer than it."""
    forest = build_forest(company())
    with torch.no_grad():
        narrow, wide, widest = (
            ForestScorer(tiny_model(name, sliding_window=window))(forest).logps for window in (8, 12, 64)
        )
    longer_than_window = [number for number, sequence in enumerate(company()) if sequence.scored[12:].any()]
    assert longer_than_window == [0, 1, 3, 4, 5, 6]
    assert ((narrow - widest).abs()[longer_than_window] > 1e-3).all()
    assert ((narrow - wide).abs()[longer_than_window] > 1e-3).all()
    torch.testing.assert_close(narrow[7], widest[7])  # six tokens fit every window


@pytest.mark.parametrize("name", TINY)
def test_metrics_equal_those_of_all_logits(name: str) -> None:
    model, sequence = tiny_model(name), company()[5]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(sequence.ids)[None], use_cache=False).logits[0, :-1]
        scores = ForestScorer(model)(build_forest(company()), with_entropy=True)
    assert scores.num_tokens.tolist() == [6, 7, 0, 2, 6, 18, 12, 3, 0, 0]
    assert scores.entropies is not None
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(scores.entropies[5].float(), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits[5].float(), logits.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", STATEFUL)
def test_stateful_model_falls_back_and_says_so_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zephyr"):
        scorer = ForestScorer(tiny_model(name))
        for _ in range(2):
            scorer(build_forest(company()))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("zephyr")]
    assert not scorer.shares_prefixes
    assert len(ours) == 1
    assert "one sequence a row" in ours[0]


@pytest.mark.parametrize("name", SHARING)
def test_attention_model_shares_and_is_silent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zephyr"):
        assert ForestScorer(tiny_model(name)).shares_prefixes
    assert not [record for record in caplog.records if record.name.startswith("zephyr")]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_next"])
def test_router_logits_of_shared_tokens_equal_those_alone(name: str) -> None:
    scorer = ForestScorer(tiny_model(name), keep_router_logits=True)
    first, second = completion_scored([5, 6, 7], [8, 9]), completion_scored([5, 6, 7], [10])
    with torch.no_grad():
        together, *alone = (
            (scorer(build_forest(sequences)), scorer.router_logits)[1]
            for sequences in ([first, second], [first], [second])
        )
    assert [tuple(layer.shape) for layer in together] == [(6, 4), (6, 4)]
    for layer, one, two in zip(together, *alone, strict=True):
        torch.testing.assert_close(layer, torch.cat([one, two[3:]]), rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3_text"])
def test_lora_on_attention_and_head(name: str) -> None:
    model = lora_model("q_proj", "lm_head", name=name)
    theirs = scored_by_transformers(model, company())
    with model.disable_adapter():
        base = scored_by_transformers(model, company())
    scorer = ForestScorer(model)
    torch.testing.assert_close(scored_by_us(scorer, company()), theirs, rtol=1e-6, atol=0)
    with model.disable_adapter():
        torch.testing.assert_close(scored_by_us(scorer, company()), base, rtol=1e-6, atol=0)
    assert ((theirs - base).abs() > 1e-3).all()


def test_gradient_reaches_the_adapters_of_the_head_and_nothing_frozen() -> None:
    model = lora_model("q_proj", "lm_head")
    logps = torch.stack([logps_by_transformers(model, s) for s in company() if s.scored.any()])
    (coefficients(len(logps)) * logps).sum().backward()
    theirs = gradients_of(model)
    model.zero_grad()
    scores = ForestScorer(model)(build_forest(company()))
    (coefficients(len(logps)) * scores.logps[scores.num_tokens > 0]).sum().backward()
    ours = gradients_of(model)
    assert_same(Outcome(scores.logps, ours), Outcome(scores.logps, theirs), tolerance=1e-5)
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all("lora_" in name for name in with_gradient)
    assert all(ours[name].any() for name in with_gradient)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in with_gradient} == {"q_proj", "lm_head"}


def test_head_that_is_trained_whole_beside_adapters() -> None:
    model = lora_model("q_proj", modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    theirs = scored_by_transformers(model, company())
    with model.disable_adapter():
        base = scored_by_transformers(model, company())
    scorer = ForestScorer(model)
    torch.testing.assert_close(scored_by_us(scorer, company()), theirs, rtol=1e-6, atol=0)
    with model.disable_adapter():
        torch.testing.assert_close(scored_by_us(scorer, company()), base, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_gradient_of_a_tied_embedding_equals_the_padded_one(name: str) -> None:
    """One weight, two uses: embedding and head both leave their share in it."""
    sequences = [sequence for sequence in company() if sequence.scored.any()]
    # A window beyond the row: far behind a short row padding sees no key, and float64 makes that NaN.
    padded_model = float64_model(name, sliding_window=64)
    padded_model.set_attn_implementation("eager")
    assert padded_model.get_input_embeddings().weight is padded_model.get_output_embeddings().weight
    longest = max(len(sequence.ids) for sequence in sequences)
    ids, mask, labels = (torch.zeros(len(sequences), longest, dtype=torch.int64) for _ in range(3))
    for row, sequence in enumerate(sequences):
        here = slice(0, len(sequence.ids))
        ids[row, here], mask[row, here] = torch.from_numpy(sequence.ids), 1
        labels[row, here] = torch.from_numpy(sequence.scored.astype(np.int64))
    logps = padded_model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    chosen = logps.gather(2, ids[:, 1:, None]).squeeze(2)
    sums = (chosen * labels[:, 1:]).sum(1)
    (coefficients(len(sequences)) * sums).sum().backward()
    theirs = Outcome(sums.detach(), gradients_of(padded_model))
    assert_same(packed(ForestScorer(float64_model(name, sliding_window=64)), sequences), theirs, tolerance=1e-6)


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mistral", {"attention_dropout": 0.5}),
        ("phi3", {"attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    ],
)
def test_dropout_is_switched_off(name: str, settings: dict[str, object]) -> None:
    model = changed_model(name, **settings)
    forest = build_forest(company())
    with torch.no_grad():
        assert not torch.equal(*(model(input_ids=forest.ids[None]).logits for _ in range(2))), "no dropout to test"
        scorer = ForestScorer(model)
        first, second = scorer(forest).logps, scorer(forest).logps
        assert scorer.training
        scorer.eval()
        assert torch.equal(first, second)
        assert torch.equal(first, scorer(forest).logps)


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "llama",
            {
                "max_position_embeddings": 16,
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            },
        ),
        (
            "phi3",
            {
                "max_position_embeddings": 64,
                "original_max_position_embeddings": 16,
                "rope_parameters": LONGROPE,
            },
        ),
    ],
)
def test_rotary_embedding_that_looks_at_the_whole_batch_has_a_limit(name: str, settings: dict[str, object]) -> None:
    scorer = ForestScorer(changed_model(name, **settings))
    short, at_limit = completion_scored([5, 6], [7]), all_scored(np.arange(4, 20))
    assert scorer(build_forest([short, at_limit])).logps.isfinite().all()
    beyond = completion_scored(np.arange(4, 20), [20])
    with pytest.raises(ModelError, match="longer than 16 tokens; set max_length to at most 16"):
        scorer(build_forest([short, at_limit, beyond]))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ordinary_forward_after_the_scorer_asks_for_a_forest(name: str) -> None:
    model = tiny_model(name)
    ForestScorer(model)
    with pytest.raises(ValueError, match="runs on forests: pass forest= to the forward"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_model_with_attention_sinks_is_refused() -> None:
    """GPT-OSS adds a learned term to its softmax, which the rule does not know."""
    scorer = ForestScorer(small_model("GptOss", num_local_experts=4, head_dim=8))
    with pytest.raises(ModelError, match="its attention uses s_aux"):
        scorer(build_forest(company()))


@pytest.mark.parametrize("name", ["Cohere", "GPTNeoX", "NanoChat", "OPT", "Olmo3", "Phi"])
def test_attention_models_beyond_the_table_score_as_they_forward(name: str) -> None:
    """Logit multipliers, parallel blocks, partial rotary embeddings, learned positions, biased heads."""
    model = small_model(name).eval()
    theirs = scored_by_transformers(model, company())
    torch.testing.assert_close(scored_by_us(ForestScorer(model), company()), theirs, rtol=1e-5, atol=0)


def test_something_else_than_a_transformers_model_is_refused() -> None:
    with pytest.raises(TypeError, match="is wanted, got Linear"):
        ForestScorer(nn.Linear(2, 2))


def test_scores_taken_in_inference_mode_leave_the_forest_fit_for_training() -> None:
    """The reference pass and the policy's share a forest and what the attention derived from it."""
    scorer = ForestScorer(float64_model("gemma2"))
    forest = build_forest(company())
    with torch.inference_mode():
        reference = scorer(forest).logps
    policy = scorer(forest).logps
    policy.sum().backward()
    assert torch.equal(policy, reference)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "mixtral"])
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    scorer = ForestScorer(tiny_model(name)).train()
    plain = packed(scorer, company())
    scorer.causal_lm.gradient_checkpointing_enable()
    checkpointed = packed(scorer, company())
    assert_same(checkpointed, plain, tolerance=1e-6)


@pytest.mark.parametrize("name", ["mistral", "gpt2", "mamba"])
def test_rank_without_an_example_takes_part(name: str) -> None:
    """An empty micro-batch gives no scores, and a backward pass that leaves no gradient but zeros."""
    scorer = ForestScorer(tiny_model(name))
    scores = scorer(build_forest([]))
    assert tuple(scores.logps.shape) == (0,)
    scores.logps.sum().backward()
    assert not any(gradient.any() for gradient in gradients_of(scorer).values())


def test_merged_adapter_on_the_head_is_not_added_twice() -> None:
    model = lora_model("q_proj", "lm_head")
    theirs = scored_by_transformers(model, company())
    model.merge_adapter()
    torch.testing.assert_close(scored_by_us(ForestScorer(model), company()), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("option", ["use_dora", "lora_bias"])
def test_head_with_another_kind_of_adapter_is_refused(option: str) -> None:
    scorer = ForestScorer(lora_model("q_proj", "lm_head", **{option: True}))
    with pytest.raises(ModelError, match=r"lm_head|[Hh]ead|output layer"):
        scorer(build_forest(company()))


@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_virtual_tokens_are_refused(kind: type[peft.PeftConfig]) -> None:
    """Prompt and prefix tuning put tokens before every sequence, which only peft's own forward does."""
    model = peft.get_peft_model(tiny_model("mistral"), kind(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError):
        ForestScorer(model)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Phimoe", {"sliding_window": 4}),  # its window lives in the mask alone
        ("FalconH1", {"lm_head_multiplier": 0.3}),
        ("HyperCLOVAX", {"logits_scaling": 0.3}),  # multiplies where Granite divides
        ("RecurrentGemma", {"logits_soft_cap": 2.0}),
    ],
)
def test_what_the_scorer_cannot_reproduce_is_refused(name: str, settings: dict[str, object]) -> None:
    model = small_model(name, **settings).eval()
    sequences = [sequence for sequence in company() if sequence.scored.any()]
    theirs = scored_by_transformers(model, sequences)
    try:
        ours = scored_by_us(ForestScorer(model), sequences)
    except ModelError:
        return
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_dropout_that_is_a_module_is_switched_off() -> None:
    model = small_model("Bloom", n_layer=2, n_head=4, attention_dropout=0.5, hidden_dropout=0.5)
    scorer = ForestScorer(model)
    assert torch.equal(*(scorer(build_forest(company())).logps for _ in range(2)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Mixtral", {"router_jitter_noise": 0.5, "num_local_experts": 4}), ("OPT", {"dropout": 0.5})],
)
def test_other_noise_is_switched_off_or_refused(name: str, settings: dict[str, object]) -> None:
    scorer = ForestScorer(small_model(name, **settings))
    with torch.no_grad():
        assert torch.equal(*(scorer(build_forest(company())).logps for _ in range(2)))


def test_sequence_beyond_learned_positions_is_refused() -> None:
    scorer = ForestScorer(changed_model("gpt2", n_positions=16))
    with pytest.raises(ModelError, match="16"):
        scorer(build_forest([all_scored(np.arange(4, 21))]))
