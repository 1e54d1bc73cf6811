"""What the scorer switches off, and what it refuses instead of scoring it wrongly."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.exact_norms import float64_model
from tests.models.scorer_runs import (
    LONGROPE,
    assert_same,
    changed_model,
    company,
    gradients_of,
    packed,
    scored_by_transformers,
    scored_by_us,
    small_model,
)
from zephyr.errors import ModelError
from zephyr.models.scorer import ForestScorer, decoder_layers
from zephyr.models.tiny import tiny_model
from zephyr.trees.forest import all_scored, build_forest, completion_scored


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
    with pytest.raises(ValueError, match="computes on forests: pass forest= to forward"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("Phimoe", {"num_local_experts": 4, "sliding_window": 4}, "uses a window that only its mask knows"),
        ("Nemotron", {}, "NemotronAttention: computes on forests: pass forest= to forward"),
    ],
)
def test_attention_that_forests_do_not_know_runs_one_sequence_a_row_and_says_why(
    name: str, settings: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model(name, **settings).eval()
    theirs = scored_by_transformers(model, company())
    scorer = ForestScorer(model)
    with caplog.at_level(logging.WARNING, logger="zephyr"):
        first, second = scored_by_us(scorer, company()), scored_by_us(scorer, company())
    torch.testing.assert_close(first, theirs, rtol=1e-5, atol=0)
    assert torch.equal(first, second)
    (line,) = (record.getMessage() for record in caplog.records if record.name.startswith("zephyr"))
    assert line.startswith(f"{name}ForCausalLM: one sequence a row; ")
    assert reason in line


@pytest.mark.parametrize("name", ["Cohere", "GptOss", "GPTNeoX", "NanoChat", "OPT", "Olmo3", "Phi"])
def test_attention_models_beyond_the_table_score_as_they_forward(name: str) -> None:
    """Logit multipliers, parallel blocks, partial rotary embeddings, learned positions, biased heads."""
    model = small_model(name).eval()
    theirs = scored_by_transformers(model, company())
    torch.testing.assert_close(scored_by_us(ForestScorer(model), company()), theirs, rtol=1e-5, atol=0)


def test_something_else_than_a_transformers_model_is_refused() -> None:
    with pytest.raises(TypeError, match="of transformers, got Linear"):
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


@pytest.mark.parametrize("keep_products", [False, True])
@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "mixtral", "gpt2"])
def test_activation_checkpointing_changes_nothing(name: str, keep_products: bool) -> None:
    scorer = ForestScorer(tiny_model(name)).train()
    plain = packed(scorer, company())
    scorer.checkpoint_activations(keep_products=keep_products)
    checkpointed = packed(scorer, company())
    assert_same(checkpointed, plain, tolerance=1e-6)


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("Llama", {}), ("Gemma3Text", {"head_dim": 8}), ("Mixtral", {"num_local_experts": 4}), ("GPT2", {"n_layer": 5})],
)
def test_exactly_the_layers_of_a_number_and_its_multiples_are_computed_twice(
    name: str, settings: dict[str, object], every: int
) -> None:
    scorer = ForestScorer(small_model(name, num_hidden_layers=5, **settings)).train()
    plain, runs = packed(scorer, company()), [0] * 5
    scorer.checkpoint_activations(every=every)

    def count(number: int) -> None:
        runs[number] += 1

    layers = decoder_layers(scorer)
    assert len(layers) == 5
    for number, layer in enumerate(layers):
        # The first part of a layer, since hooks of the layer itself may be outside of what runs again.
        next(layer.children()).register_forward_pre_hook(lambda *_, number=number: count(number))
    checkpointed = packed(scorer, company())
    assert runs == [2 if number % every == 0 else 1 for number in range(1, 6)]
    assert torch.equal(checkpointed.logps, plain.logps)
    assert all(torch.equal(checkpointed.gradients[name], theirs) for name, theirs in plain.gradients.items())


def test_a_layer_that_is_not_there_cannot_be_computed_again() -> None:
    scorer = ForestScorer(small_model("Llama"))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: .* and it has 2; choose a smaller number"):
        scorer.checkpoint_activations(every=3)


@pytest.mark.parametrize("name", ["mistral", "gpt2", "mamba"])
def test_rank_without_an_example_takes_part(name: str) -> None:
    """An empty micro-batch gives no scores, and a backward pass that leaves no gradient but zeros."""
    scorer = ForestScorer(tiny_model(name))
    scores = scorer(build_forest([]))
    assert tuple(scores.logps.shape) == (0,)
    scores.logps.sum().backward()
    assert not any(gradient.any() for gradient in gradients_of(scorer).values())


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


@pytest.mark.parametrize("name", ["OPT", "BioGpt", "CTRL", "GPTJ"])
def test_the_longest_sequence_is_as_long_as_the_table_of_positions(name: str) -> None:
    """Tables of OPT and BioGPT hold two rows more than they have positions; CTRL and GPT-J have buffers."""
    sizes = {"CTRL": {"n_positions": 16}, "GPTJ": {"n_positions": 16, "rotary_dim": 8}}
    scorer = ForestScorer(small_model(name, **sizes.get(name, {"max_position_embeddings": 16})))
    assert scorer(build_forest([all_scored(np.arange(4, 20))])).logps.isfinite().all()
    with pytest.raises(ModelError, match="its table of positions holds 16 tokens; set max_length to at most 16"):
        scorer(build_forest([all_scored(np.arange(4, 21))]))
