"""Adapters merged weight by weight, from file to file, give the model that is merged in memory."""

import pytest
import torch

from zephyr.errors import ModelError
from zephyr.models.adapters import add_lora, fill_magnitudes, load_adapter, save_adapter
from zephyr.models.loading import load_model, save_model
from zephyr.models.merging import merge_adapters, merged_weights
from zephyr.models.reward_model import NewHead, empty_start, load_start
from zephyr.models.source import Source
from zephyr.models.stored_weights import names_to_write, write_weights
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.train_section import LoraSection

IDS = torch.tensor([range(1, 9)])


def stored(name, folder):
    save_model(tiny_model(name, vocab_size=384), tiny_tokenizer(), folder / "base")
    return Source(str(folder / "base"))


def trained(model, lora):
    """The model with adapters as training might leave them."""
    adapted, drawn = add_lora(model, lora), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=drawn), alpha=0.02)
    return adapted


CASES = [
    ("llama", LoraSection(r=2, use_dora=True), "float32"),
    ("llama", LoraSection(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]), "bfloat16"),
    # Whose layers hold their weights transposed, and biases.
    pytest.param("gpt2", LoraSection(r=2), "float32", marks=pytest.mark.slow),
    pytest.param("gemma3_text", LoraSection(r=2, use_rslora=True), "bfloat16", marks=pytest.mark.slow),
    pytest.param("mixtral", LoraSection(r=2), "float32", marks=pytest.mark.slow),
    ("mixtral", LoraSection(r=2, target_modules=["q_proj", "experts"]), "bfloat16"),
]


@pytest.mark.parametrize(("name", "lora", "dtype"), CASES)
def test_each_weight_is_the_one_that_is_merged_in_memory(name, lora, dtype, tmp_path):
    source = stored(name, tmp_path)
    save_adapter(trained(load_model(source, dtype=dtype), lora), tmp_path / "adapter")
    adapted = load_adapter(load_model(source, dtype=dtype), tmp_path / "adapter")
    expected = merge_adapters(adapted, IDS, tolerance=1e9).model.state_dict()
    empty, weights = empty_start(source, None, dtype=dtype)
    found = dict(merged_weights(empty, lora, tmp_path / "adapter", weights, names_to_write(empty)))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    write_weights(empty, tiny_tokenizer(), tmp_path / "merged", found.items())
    written = load_model(Source(str(tmp_path / "merged")), dtype=dtype).state_dict()
    assert written.keys() == expected.keys()
    assert [key for key, tensor in written.items() if not torch.equal(tensor, expected[key])] == []


def test_a_new_head_of_rewards_is_merged_as_it_was_trained(tmp_path):
    source, lora, head = stored("mistral", tmp_path), LoraSection(r=2), NewHead(tiny_tokenizer(), {EOS_ID}, 7)
    save_adapter(trained(load_start(source, head, dtype="float32"), lora), tmp_path / "adapter")
    adapted = load_adapter(load_start(source, head, dtype="float32"), tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    empty, weights = empty_start(source, head, dtype="float32")
    found = dict(merged_weights(empty, lora, tmp_path / "adapter", weights, names_to_write(empty)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_a_merge_that_changes_what_a_layer_gives_is_an_error(tmp_path, monkeypatch):
    source, lora = stored("llama", tmp_path), LoraSection(r=2)
    save_adapter(trained(load_model(source, dtype="float32"), lora), tmp_path / "adapter")
    empty, weights = empty_start(source, None, dtype="float32")
    monkeypatch.setattr("peft.tuners.lora.Linear.get_delta_weight", lambda layer, _adapter: layer.weight * 0.01)
    with pytest.raises(ModelError, match=r"the layer of model\.layers\.0\.\S+ gives moved by 0"):
        list(merged_weights(empty, lora, tmp_path / "adapter", weights, names_to_write(empty)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_magnitudes_are_measured_without_the_whole_model(tmp_path, dtype):
    source, lora = stored("llama", tmp_path), LoraSection(r=2, use_dora=True, target_modules=["q_proj", "embed_tokens"])
    whole = add_lora(load_model(source, dtype=dtype), lora, seed=3).state_dict()
    empty, weights = empty_start(source, None, dtype=dtype)
    adapted = add_lora(empty, lora, seed=3)
    fill_magnitudes(adapted, weights)
    found = {name: tensor for name, tensor in adapted.state_dict().items() if "lora_" in name}
    assert any("magnitude" in name for name in found)
    for name, tensor in found.items():
        assert tensor.dtype == whole[name].dtype, name
        assert torch.equal(tensor, whole[name]), name
