import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from zephyr.deliver.gguf.tensors import named_tensors, permute, read_sizes, rope_factors
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


def tensors_of(name, **settings):
    gguf = pytest.importorskip("gguf", reason="the extra export is not installed")
    model = tiny_model(name, **settings)
    sizes = read_sizes(model.config.to_dict(), "here")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes.num_layers)
    return model, {tensor.name: tensor for tensor in named_tensors(dict(model.state_dict()), sizes, names, "here")}


def test_halves_become_pairs():
    rows = torch.arange(8.0)[:, None]
    assert permute(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rotated_scores_are_the_same_in_both_layouts():
    torch.manual_seed(0)
    query, key, x, y = torch.randn(8, 5), torch.randn(8, 5), torch.randn(5), torch.randn(5)
    angles = torch.tensor([0.3, 0.7, 1.1, 1.9])

    def halves(vector, turn):
        first, second = vector.chunk(2)
        cos, sin = (turn * angles).cos(), (turn * angles).sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin])

    def pairs(vector, turn):
        first, second = vector[0::2], vector[1::2]
        cos, sin = (turn * angles).cos(), (turn * angles).sin()
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=1).flatten()

    ours = halves(query @ x, 5.0) @ halves(key @ y, 2.0)
    theirs = pairs(permute(query, 1) @ x, 5.0) @ pairs(permute(key, 1) @ y, 2.0)
    torch.testing.assert_close(ours, theirs)
    assert not torch.isclose(ours, pairs(query @ x, 5.0) @ pairs(key @ y, 2.0))


def test_llama3_factors_are_those_of_transformers():
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=512, rope_parameters=dict(LLAMA3)
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** (-np.arange(0, 32, 2) / 32)
    factors = rope_factors(dict(LLAMA3), 32)
    assert min(factors) == 1
    assert max(factors) == 8
    np.testing.assert_allclose(plain / frequencies.double().numpy(), factors, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_every_weight_is_there_once_and_matrices_are_float16(name):
    model, tensors = tensors_of(name)
    assert len(tensors) == len(model.state_dict())
    assert {str(tensor.dtype) for tensor in tensors.values() if len(tensor.shape) == 2} == {"float16"}
    assert {str(tensor.dtype) for tensor in tensors.values() if len(tensor.shape) == 1} == {"float32"}
    wanted = permute(model.state_dict()["model.layers.1.self_attn.k_proj.weight"], 2)
    assert np.array_equal(tensors["blk.1.attn_k.weight"].load(), wanted.half().numpy())


def test_experts_are_stacked_and_their_gates_apart_from_their_ups():
    model, tensors = tensors_of("mixtral")
    both = model.state_dict()["model.layers.0.mlp.experts.gate_up_proj"]
    assert tensors["blk.0.ffn_gate_exps.weight"].shape == (4, 64, 32)
    assert np.array_equal(tensors["blk.0.ffn_gate_exps.weight"].load(), both[:, :64].half().numpy())
    assert np.array_equal(tensors["blk.0.ffn_up_exps.weight"].load(), both[:, 64:].half().numpy())
    assert tensors["blk.0.ffn_down_exps.weight"].shape == (4, 32, 64)
    assert str(tensors["blk.0.ffn_gate_inp.weight"].dtype) == "float32"


def test_a_head_tied_to_the_embeddings_is_left_out():
    gguf = pytest.importorskip("gguf", reason="the extra export is not installed")
    embeddings = torch.ones(4, 2)
    weights = {"model.embed_tokens.weight": embeddings, "lm_head.weight": embeddings}
    sizes = read_sizes(tiny_model("llama").config.to_dict(), "here")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert [tensor.name for tensor in named_tensors(weights, sizes, names, "here")] == ["token_embd.weight"]


def test_numbers_too_large_for_float16_are_refused():
    gguf = pytest.importorskip("gguf", reason="the extra export is not installed")
    sizes = read_sizes(tiny_model("llama").config.to_dict(), "here")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    (tensor,) = named_tensors({"lm_head.weight": torch.full((2, 2), 1e5)}, sizes, names, "here")
    with pytest.raises(ModelError, match=r"output.weight: holds numbers above 65504"):
        tensor.load()


def test_sizes_of_a_mistral_stop_at_its_window():
    sizes = read_sizes(tiny_model("mistral", sliding_window=8).config.to_dict(), "here")
    assert sizes.settings["context_length"] == 8
    assert sizes.settings["attention.head_count_kv"] == 2
    assert sizes.notes == ("llama.cpp knows no sliding window here: the context is cut from 2048 to 8 tokens",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "here: has the architecture 'gpt2', which is not supported; export llama, mistral"),
        ({"hidden_act": "gelu"}, "uses the activation gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "uses RoPE of type 'yarn'"),
        ({"rms_norm_eps": None}, "has no number rms_norm_eps"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        read_sizes(tiny_model("llama").config.to_dict() | change, "here")
