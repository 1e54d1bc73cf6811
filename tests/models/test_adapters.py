"""Adapters: off they are the base to the bit, merged they are the adapted model, and files come back."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.slowly import of_each_kind
from zephyr.errors import ModelError
from zephyr.models.adapters import (
    WEIGHTS,
    adapters_disabled,
    add_lora,
    load_adapter,
    save_adapter,
)
from zephyr.models.loading import load, save_model
from zephyr.models.merging import merge_adapters
from zephyr.models.source import Source
from zephyr.models.tiny import TINY, tiny_model, tiny_tokenizer
from zephyr.models.weight_hash import weights_hash
from zephyr.recipe.train_section import LoraSection

IDS = torch.arange(4, 52).view(2, 24)
# peft refuses adapters on Mamba's output projection.
ADAPTABLE = [name for name in TINY if name != "mamba"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def trained(name: str, settings: LoraSection | None = None, **sizes):
    """A model with adapters that were moved off their start."""
    model = add_lora(tiny_model(name, **sizes), settings or LoraSection(r=4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.mark.parametrize("name", of_each_kind(ADAPTABLE))
def test_new_adapters_change_nothing_and_train_alone(name):
    base = tiny_model(name)
    expected, names = logits(base), set(base.parameters())
    model = add_lora(base, LoraSection(r=4)).eval()
    assert torch.equal(logits(model), expected)
    training = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert training
    assert all("lora_" in key for key in training)
    assert not any(parameter.requires_grad for parameter in names)


@pytest.mark.parametrize("name", of_each_kind(ADAPTABLE))
def test_disabled_adapters_are_the_base_model_to_the_bit(name):
    model, base = trained(name), logits(tiny_model(name))
    adapted = logits(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert (adapted - base).abs().max() > 0.1
    with adapters_disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), adapted)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_disabling_does_not_thaw_frozen_adapters():
    model = trained("llama")
    model.requires_grad_(False)
    with adapters_disabled(model):
        pass
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_adapters_come_back_on_after_an_error():
    model = trained("llama")
    adapted = logits(model)
    with pytest.raises(KeyError), adapters_disabled(model):
        raise KeyError
    assert torch.equal(logits(model), adapted)


@pytest.mark.parametrize("name", of_each_kind(ADAPTABLE))
def test_merged_model_is_plain_and_equal(name):
    model = trained(name)
    adapted = logits(model)
    merged = merge_adapters(model, IDS)
    assert merged.max_logit_difference < 1e-3
    assert (logits(merged.model) - adapted).abs().max() < 1e-3
    plain = tiny_model(name)
    assert type(merged.model) is type(plain)
    assert merged.model.state_dict().keys() == plain.state_dict().keys()
    assert not hasattr(merged.model, "peft_config")


def test_merging_keeps_modules_that_were_trained_in_full(tmp_path):
    model = trained("llama", LoraSection(r=4, modules_to_save=["lm_head"]), vocab_size=384)
    adapted = logits(model)
    merged = merge_adapters(model, IDS)
    save_model(merged.model, tiny_tokenizer(), tmp_path / "merged")
    again = load(Source(str(tmp_path / "merged"), offline=True), dtype="float32").model
    assert (logits(again) - adapted).abs().max() < 1e-3


def test_a_head_that_was_trained_in_full_is_saved_as_untied(tmp_path):
    model = trained("gemma2", LoraSection(r=4, modules_to_save=["lm_head"]), vocab_size=384)
    assert model.config.tie_word_embeddings
    expected = logits(model)
    merged = merge_adapters(model, IDS).model
    save_model(merged, tiny_tokenizer(), tmp_path / "merged")
    loaded = load(Source(str(tmp_path / "merged")), dtype="float32").model
    assert not loaded.config.tie_word_embeddings
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-3)
    assert merge_adapters(trained("gemma2"), IDS).model.config.tie_word_embeddings


def test_dora_merges_too():
    model = trained("llama", LoraSection(r=4, use_dora=True))
    adapted = logits(model)
    assert (logits(merge_adapters(model, IDS).model) - adapted).abs().max() < 1e-3


def test_a_merge_that_moves_logits_is_undone():
    model = trained("llama", dtype=torch.bfloat16)
    adapted = logits(model)
    with pytest.raises(
        ModelError,
        match=r"^merging adapters: a logit of \d+ of \d+ tokens of the probe moved by .*, more than 1e-06; merge in",
    ):
        merge_adapters(model, IDS, tolerance=1e-6)
    assert (logits(model) - adapted).abs().max() < 0.5
    assert hasattr(model, "peft_config")


def test_merging_is_checked_for_finite_numbers():
    model = trained("llama")
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises((ModelError, ValueError), match=r"moved by nan|NaNs detected"):
        merge_adapters(model, IDS)


# ---- identity ----


@pytest.mark.parametrize("name", of_each_kind(ADAPTABLE))
def test_hash_without_adapters_is_that_of_the_base(name):
    base = weights_hash(tiny_model(name))
    model = trained(name)
    assert weights_hash(model, adapters=False) == base
    with_adapters = weights_hash(model)
    assert with_adapters != base
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).add_(1)
    assert weights_hash(model) != with_adapters
    assert weights_hash(model, adapters=False) == base


def test_hash_of_the_base_ignores_trained_copies_of_modules():
    model = trained("llama", LoraSection(r=4, modules_to_save=["lm_head", "embed_tokens"]))
    assert weights_hash(model, adapters=False) == weights_hash(tiny_model("llama"))


# ---- settings ----


def test_targets_and_rank_are_as_asked():
    model = add_lora(tiny_model("mistral"), LoraSection(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    shapes = {n.split(".")[-4]: tuple(p.shape) for n, p in model.named_parameters() if "lora_A" in n}
    assert shapes == {"q_proj": (3, 32), "v_proj": (3, 32)}
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 2.0}


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_some_layers_get_adapters_of_root_scale(targets):
    settings = LoraSection(r=4, lora_alpha=6, target_modules=targets, layers_to_transform=[1], use_rslora=True)
    model = trained("mistral", settings)
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(names) == (7 if targets == "all-linear" else 1)
    assert all(".layers.1." in name for name in names)
    assert model.get_base_model().model.layers[1].self_attn.q_proj.scaling == {"default": 3.0}  # 6 / sqrt(4)
    expected = logits(model)
    torch.testing.assert_close(logits(merge_adapters(model, IDS).model), expected, rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="names layer 2, and the model has 2; name layers from 0 to 1"):
        add_lora(tiny_model("mistral"), LoraSection(layers_to_transform=[0, 2]))


def test_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = weights_hash(add_lora(tiny_model("llama"), LoraSection(r=4), seed=7))
    torch.manual_seed(2)
    assert weights_hash(add_lora(tiny_model("llama"), LoraSection(r=4), seed=7)) == first
    assert weights_hash(add_lora(tiny_model("llama"), LoraSection(r=4), seed=8)) != first


def test_unknown_module_is_named_with_those_there_are():
    with pytest.raises(ModelError, match=r"has no module 'qproj'; its linear modules are down_proj, .*q_proj, up_proj"):
        add_lora(tiny_model("llama"), LoraSection(target_modules=["qproj"]))
    with pytest.raises(ModelError, match=r"has no module 'head'; its linear modules are c_attn, c_fc, c_proj, lm_head"):
        add_lora(tiny_model("gpt2"), LoraSection(modules_to_save=["head"]))


def test_what_peft_cannot_do_is_said():
    with pytest.raises(ModelError, match=r"^LoRA on MambaForCausalLM: .*incompatible with Mamba"):
        add_lora(tiny_model("mamba"), LoraSection())


def test_misuse():
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(trained("llama"), LoraSection())
    with pytest.raises(TypeError, match="has no adapters"), adapters_disabled(tiny_model("llama")):
        pass


def test_adapted_models_are_not_saved_as_plain_ones(tmp_path):
    with pytest.raises(ValueError, match="merge them first, or save them as an adapter"):
        save_model(trained("llama"), tiny_tokenizer(), tmp_path / "model")


# ---- files ----


@pytest.fixture
def adapter(tmp_path) -> Path:
    save_adapter(trained("llama"), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", of_each_kind(ADAPTABLE))
def test_saved_and_loaded_adapters_are_the_same(name, tmp_path):
    model = trained(name)
    save_adapter(model, tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    loaded = load_adapter(tiny_model(name), tmp_path / "adapter")
    assert torch.equal(logits(loaded.eval()), logits(model))
    assert weights_hash(loaded) == weights_hash(model)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    thawed = load_adapter(tiny_model(name), tmp_path / "adapter", trainable=True)
    assert {n for n, p in thawed.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_adapter_folder_is_not_overwritten(adapter):
    with pytest.raises(ModelError, match="already exists"):
        save_adapter(trained("llama"), adapter)


def test_pickled_adapters_are_refused(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"holds adapter_model\.bin but no adapter_model\.safetensors"):
        load_adapter(tiny_model("llama"), adapter)
    shutil.rmtree(adapter)
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        load_adapter(tiny_model("llama"), adapter)


def test_adapter_of_another_model(adapter):
    with pytest.raises(ModelError, match="does not fit the model"):
        load_adapter(tiny_model("llama", hidden=64), adapter)
    with pytest.raises(ModelError, match="does not fit the model"):
        load_adapter(tiny_model("llama", layers=1), adapter)


def test_half_an_adapter(adapter):
    weights = load_file(adapter / WEIGHTS)
    first = min(weights)
    save_file({name: tensor for name, tensor in weights.items() if name != first}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match="does not fit the model at " + first.replace(".", r"\.")):
        load_adapter(tiny_model("llama"), adapter)


def test_nan_in_an_adapter(adapter):
    weights = load_file(adapter / WEIGHTS)
    weights[min(weights)].view(-1)[0] = float("nan")
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(ModelError, match="contains NaN"):
        load_adapter(tiny_model("llama"), adapter)


def test_quantised_bases_are_not_merged_into():
    model = trained("llama")
    model.get_base_model().is_quantized = True
    with pytest.raises(ModelError, match="rounding the merged weights to 4 bits would lose the adapter"):
        merge_adapters(model, IDS)
