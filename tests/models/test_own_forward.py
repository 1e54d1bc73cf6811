"""The proof that the scorer's numbers are those of the model's own forward: what it sees, and its words for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from tests.models import architectures
from tests.models.scorer_runs import company, lora_model, small_model
from tests.slowly import of_each_kind
from zephyr.errors import ModelError
from zephyr.models import own_forward, scorer, token_noise
from zephyr.models.own_forward import check_own_forward, proven_scorer
from zephyr.models.rounding import least_rounding, measured_rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import TINY, tiny_model
from zephyr.trees import rule

SEQUENCES = [sequence.ids for sequence in company()]
INKLING: dict[str, object] = {
    **dict.fromkeys(("head_dim", "swa_head_dim", "sliding_window_size"), 8),
    **dict.fromkeys(("swa_num_attention_heads", "n_routed_experts"), 4),
    "swa_num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "vocab_size": 140,
    "unpadded_vocab_size": 128,
}
SCORED = [sequence for sequence in company() if sequence.scored.any()]


def prove(scored: ForestScorer, dtype: torch.dtype = torch.float32) -> None:
    check_own_forward(scored, SEQUENCES, rounding=measured_rounding(scored, SCORED, dtype=dtype))


def said(scored: ForestScorer) -> str:
    with pytest.raises(ModelError) as caught:
        prove(scored)
    return str(caught.value)


@pytest.mark.parametrize("name", of_each_kind(TINY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_models_pass_in_train_mode(name: str, dtype: torch.dtype) -> None:
    autocast = dtype if dtype == torch.bfloat16 else None
    scored = ForestScorer(tiny_model(name), autocast=autocast).train()
    prove(scored, dtype)
    assert scored.training


def test_the_mode_of_a_model_is_left_alone() -> None:
    model = tiny_model("mixtral")
    assert not any(module.training for module in proven_scorer(model, SEQUENCES).causal_lm.modules())


def test_adapters_are_part_of_both_sides() -> None:
    prove(ForestScorer(lora_model("q_proj", "lm_head", lora_dropout=0.5)).train())


def test_the_scorer_is_left_as_it_was() -> None:
    model = small_model("Llama", attention_dropout=0.3)
    scored = ForestScorer(model).train()
    prove(scored)
    assert model.config._attn_implementation == "zephyr_forest"
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}
    assert all(module.training for module in scored.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in scored.modules())


Head = Callable[[PreTrainedModel, Tensor], Tensor]


def planted(head: Head) -> ForestScorer:
    """A Llama whose forward does something of its own to the hidden states."""
    model = tiny_model("llama")

    def forward(input_ids: Tensor, **others: object) -> CausalLMOutput:
        return CausalLMOutput(logits=head(model, model.model(input_ids, **others).last_hidden_state))

    model.forward = forward
    return ForestScorer(model).train()


def transformed(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden.tanh())


def multiplied(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden) * 0.25


def capped(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return 3.0 * (model.lm_head(hidden) / 3.0).tanh()


def unpadded(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden)[..., :-20]


def weakly_capped(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """By which the log-probs change less than they may by rounding."""
    logits = model.lm_head(hidden)
    cap = 2 * logits.abs().max()
    return cap * (logits / cap).tanh()


def a_little_unpadded(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden)[..., :-1]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (transformed, "a transform between its decoder and its output layer"),
        (multiplied, "a head multiplier: its logits are 0.25 times those we read from its configuration"),
        (capped, "a soft cap of its logits, the largest of which is"),
        (unpadded, "an unpadded vocabulary: its head gives 108 logits, its output layer 128"),
    ],
)
def test_a_head_that_is_read_wrong_is_named(head: Head, words: str) -> None:
    sentence = said(planted(head))
    assert sentence.startswith(
        "LlamaForCausalLM: its own forward makes other logits of the same hidden states: one is "
    )
    assert f"; probably {words}" in sentence
    assert sentence.endswith("; use another architecture, or report this with the versions that `zephyr env` prints")


def test_a_head_that_could_not_be_compared_is_named_too() -> None:
    """ProphetNet's forward calls a part of its decoder, and its head reads another of what that gives."""
    sentence = said(ForestScorer(architectures.small_model("prophetnet")))
    assert "; probably its head does not read what its decoder gives, or its layers attend" in sentence


def test_both_numbers_are_told() -> None:
    sentence = said(planted(lambda model, hidden: model.lm_head(hidden) * 0.0))
    assert "one is 0.000000 by LlamaForCausalLM's head and " in sentence
    assert "; probably a head multiplier: its logits are 0 times" in sentence


@pytest.mark.parametrize(("head", "words"), [(weakly_capped, "a soft cap"), (a_little_unpadded, "an unpadded")])
def test_a_weak_fault_is_seen_in_16_bits(head: Head, words: str) -> None:
    scored = planted(head)
    scored.autocast = torch.bfloat16
    with pytest.raises(ModelError, match=words):
        prove(scored, torch.bfloat16)


def test_a_setting_that_is_no_noise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phi-3.5-MoE chooses its experts by what it calls router_jitter_noise, in eval mode too."""
    monkeypatch.setattr(token_noise, "_is_noise", lambda _module, name: "jitter_noise" in name)
    model = small_model("Phimoe", num_local_experts=4, router_jitter_noise=0.3)
    assert "a setting that is switched off as noise takes part in the computation: router_jitter_noise" in said(
        ForestScorer(model).train()
    )


def test_experts_that_are_drawn_in_train_mode_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "is_jittering", lambda _module: False)
    model = small_model("Phimoe", num_local_experts=4, router_jitter_noise=0.5)
    assert "it computes something else in train mode than in eval mode" in said(ForestScorer(model).train())


def test_attention_that_is_not_the_models_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fault packed and alone, which no comparison of the scorer with itself can see."""

    def without_the_first(layout: rule.Forest, window: int | None = None) -> Tensor:
        seen = plain(layout, window)
        seen[3:, 0] = False
        return seen

    plain = rule.visible
    monkeypatch.setattr(rule, "visible", without_the_first)
    monkeypatch.setattr("zephyr.trees.attention.pick_attention", lambda *_, **__: rule.eager_attention)
    assert "its layers attend, or count positions, in another way" in said(ForestScorer(tiny_model("llama")))


def test_a_log_prob_that_is_no_number_is_seen() -> None:
    model = tiny_model("llama")
    scored = ForestScorer(model)
    rounding = measured_rounding(scored, SCORED, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ModelError, match="nan"):
        check_own_forward(scored, SEQUENCES, rounding=rounding)


def test_the_probe_is_short_and_holds_each_beginning_once() -> None:
    long = np.arange(1000) % 100
    assert [len(ids) for ids in own_forward._probe([long, long[:300], long[:20], long[:1], long[:0]])] == [256, 20]


def test_nothing_to_compare_is_no_fault() -> None:
    check_own_forward(ForestScorer(tiny_model("llama")), [np.array([3])], rounding=least_rounding(torch.float32))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("InklingText", INKLING),
        ("ModernBertDecoder", {"pad_token_id": 0, "layer_types": ["full_attention"] * 2}),
        ("Phimoe", {"num_local_experts": 4, "sliding_window": 4}),
        ("GptOss", {"num_local_experts": 4, "head_dim": 8}),
        ("Nemotron", {}),
        ("Doge", {}),
    ],
)
def test_what_once_was_silently_wrong_or_refused_is_scored_as_it_computes(
    name: str, settings: dict[str, object]
) -> None:
    prove(ForestScorer(small_model(name, **settings)).train())
