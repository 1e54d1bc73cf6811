import numpy as np
import pytest
import torch

from zephyr.deliver.gguf.architectures import read_sizes
from zephyr.deliver.gguf.libraries import tensor_names
from zephyr.deliver.gguf.tensors import named_tensors, permute
from zephyr.errors import ModelError
from zephyr.models.tiny import tiny_model


def tensors_of(name, **settings):
    pytest.importorskip("gguf", reason="the extra export is not installed")
    model = tiny_model(name, **settings)
    sizes = read_sizes(model.config.to_dict(), "here")
    names = tensor_names(sizes.architecture.name, sizes.num_layers)
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


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"])
def test_every_weight_is_there_once_and_matrices_are_float16(name):
    model, tensors = tensors_of(name)
    assert len(tensors) == len(model.state_dict()) - model.config.tie_word_embeddings
    assert {str(tensor.dtype) for tensor in tensors.values() if len(tensor.shape) == 2} == {"float16"}
    assert {str(tensor.dtype) for tensor in tensors.values() if len(tensor.shape) == 1} == {"float32"}


def test_halves_become_pairs_only_where_llama_cpp_rotates_pairs():
    for name, pairs in (("llama", True), ("qwen2", False)):
        model, tensors = tensors_of(name)
        key = model.state_dict()["model.layers.1.self_attn.k_proj.weight"]
        wanted = permute(key, 2) if pairs else key
        assert np.array_equal(tensors["blk.1.attn_k.weight"].load(), wanted.half().numpy())


def test_norms_of_gemma_hold_the_one_that_transformers_adds():
    model, tensors = tensors_of("gemma3_text")
    norm = model.state_dict()["model.layers.0.self_attn.q_norm.weight"]
    assert np.array_equal(tensors["blk.0.attn_q_norm.weight"].load(), 1 + norm.numpy())


def test_experts_are_stacked_and_their_gates_apart_from_their_ups():
    model, tensors = tensors_of("mixtral")
    both = model.state_dict()["model.layers.0.mlp.experts.gate_up_proj"]
    assert tensors["blk.0.ffn_gate_exps.weight"].shape == (4, 64, 32)
    assert np.array_equal(tensors["blk.0.ffn_gate_exps.weight"].load(), both[:, :64].half().numpy())
    assert np.array_equal(tensors["blk.0.ffn_up_exps.weight"].load(), both[:, 64:].half().numpy())
    assert tensors["blk.0.ffn_down_exps.weight"].shape == (4, 32, 64)
    assert str(tensors["blk.0.ffn_gate_inp.weight"].dtype) == "float32"


def test_a_head_tied_to_the_embeddings_is_left_out():
    pytest.importorskip("gguf", reason="the extra export is not installed")
    embeddings = torch.ones(4, 2)
    weights = {"model.embed_tokens.weight": embeddings, "lm_head.weight": embeddings}
    sizes = read_sizes(tiny_model("llama").config.to_dict(), "here")
    names = tensor_names("llama", 2)
    assert [tensor.name for tensor in named_tensors(weights, sizes, names, "here")] == ["token_embd.weight"]


def test_numbers_too_large_for_float16_are_refused():
    pytest.importorskip("gguf", reason="the extra export is not installed")
    sizes = read_sizes(tiny_model("llama").config.to_dict(), "here")
    names = tensor_names("llama", 2)
    (tensor,) = named_tensors({"lm_head.weight": torch.full((2, 2), 1e5)}, sizes, names, "here")
    with pytest.raises(ModelError, match=r"output.weight: holds numbers above 65504"):
        tensor.load()
