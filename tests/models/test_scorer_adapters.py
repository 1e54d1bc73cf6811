"""Adapters and tied weights at the head: scores and gradients are those of the model itself."""

import numpy as np
import peft
import pytest
import torch

from tests.models.exact_norms import float64_model
from tests.models.scorer_runs import (
    Outcome,
    assert_same,
    coefficients,
    company,
    gradients_of,
    logps_by_transformers,
    lora_model,
    packed,
    scored_by_transformers,
    scored_by_us,
)
from zephyr.errors import ModelError
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.trees.forest import build_forest


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
