import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from zephyr.deliver.gguf.architectures import llama3_factors, read_sizes
from zephyr.errors import ModelError
from zephyr.models.tiny import tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def settings_of(name, **settings):
    return read_sizes(tiny_model(name, **settings).config.to_dict(), "here").settings


def test_llama3_factors_are_those_of_transformers():
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=512, rope_parameters=dict(LLAMA3)
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-np.arange(0, 32, 2) / 32)
    factors = llama3_factors(dict(LLAMA3), 32)
    assert min(factors) == 1
    assert max(factors) == 8
    np.testing.assert_allclose(plain / frequencies.double().numpy(), factors, rtol=1e-5)


def test_sizes_of_a_mistral_stop_at_its_window():
    sizes = read_sizes(tiny_model("mistral", sliding_window=8).config.to_dict(), "here")
    assert sizes.settings["context_length"] == 8
    assert sizes.settings["attention.head_count_kv"] == 2
    assert sizes.notes == ("llama.cpp knows no sliding window here: the context is cut from 2048 to 8 tokens",)


def test_windows_of_a_gemma_are_told_and_their_order_where_it_is_unusual():
    settings = settings_of("gemma3_text", layers=4)
    assert settings["attention.sliding_window"] == 8
    assert settings["attention.sliding_window_pattern"] == (True, False, True, False)
    assert "attention.sliding_window_pattern" not in settings_of("gemma2", layers=4)
    assert "attention.sliding_window" not in settings_of("gemma3_text", sliding_window=None)


def test_a_rope_within_windows_is_another():
    config = tiny_model("gemma3_text").config.to_dict()
    ropes = {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}}
    ropes["sliding_attention"] = {"rope_theta": 1e4, "rope_type": "default"}
    settings = read_sizes(config | {"rope_parameters": ropes}, "here").settings
    assert [settings[f"rope.{key}"] for key in ("freq_base", "freq_base_swa", "scaling.factor")] == [1e6, 1e4, 8]
    ropes["sliding_attention"] = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
    with pytest.raises(ModelError, match=r"uses RoPE of type 'linear' within its windows, which llama.cpp's gemma3"):
        read_sizes(config | {"rope_parameters": ropes}, "here")


def test_caps_of_a_gemma_2_and_experts_of_a_mixtral_are_told():
    gemma, mixtral = settings_of("gemma2"), settings_of("mixtral")
    assert [gemma[f"{kind}_logit_softcapping"] for kind in ("attn", "final")] == [5.0, 5.0]
    assert [mixtral[key] for key in ("expert_count", "expert_used_count")] == [4, 2]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "gemma3_text",
            {"query_pre_attn_scalar": 7},
            "scales attention by 7 instead of 8, which llama.cpp's",
        ),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attends to later tokens"),
        ("smollm3", {}, "leaves out rotary embeddings elsewhere than in every layer 4"),
        (
            "qwen2",
            {"rope_parameters": dict(LLAMA3)},
            "uses RoPE of type 'llama3', with which llama.cpp does",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name, change, message):
    with pytest.raises(ModelError, match=message):
        read_sizes(tiny_model(name).config.to_dict() | change, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "here: has the architecture 'gpt2', which is not supported; export llama, mistral"),
        ({"hidden_act": "gelu"}, "uses the activation gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0}}, "uses RoPE of type 'dynamic'"),
        ({"rms_norm_eps": None}, "has no number rms_norm_eps"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        read_sizes(tiny_model("llama").config.to_dict() | change, "here")
