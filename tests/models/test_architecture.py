"""Modules that adapters name, checked on an architecture without weights."""

import pytest
import torch

from zephyr.errors import ModelError, ProblemsError
from zephyr.models.architecture import check_lora_modules
from zephyr.models.new_model import weightless_model
from zephyr.models.tiny import tiny_model
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.train_section import LoraSection


def new_model():
    shape = NewModel()
    sizes = shape.model_dump(exclude={"kind", "architecture"})
    return weightless_model(shape.architecture, sizes, dtype=torch.float32)


def test_a_new_model_needs_no_weights_to_be_checked():
    model = new_model()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.get_input_embeddings().weight.shape == (700, 128)
    check_lora_modules(model, LoraSection(target_modules=["q_proj", "mlp.down_proj"], modules_to_save=["lm_head"]))


def test_all_modules_that_are_not_there_are_told_at_once():
    with pytest.raises(ProblemsError) as told:
        check_lora_modules(new_model(), LoraSection(target_modules=["query_key_value"], modules_to_save=["wte"]))
    linear = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    assert str(told.value) == (
        "2 problems:\n"
        f"  LoRA on MistralForCausalLM: the model has no module 'query_key_value'; its linear modules are {linear}; "
        "name some of these, or 'all-linear'\n"
        f"  LoRA on MistralForCausalLM: the model has no module 'wte'; its linear modules are {linear}; name some of "
        "these, or 'all-linear'"
    )


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_adapters_on_a_tied_head_or_embedding_are_refused(name):
    expected = rf"'{name}' shares its weights with the embedding, .*; modules_to_save: \[{name}\] trains it in full"
    with pytest.raises(ModelError, match=expected):
        check_lora_modules(tiny_model("gemma2"), LoraSection(target_modules=["q_proj", name]))
    check_lora_modules(tiny_model("mistral"), LoraSection(target_modules=["q_proj", name]))
