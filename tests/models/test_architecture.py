"""Modules that adapters name, checked on an architecture without weights."""

import pytest
import torch

from zephyr.errors import ModelError, ProblemsError
from zephyr.models.architecture import check_control_tokens, check_lora_modules
from zephyr.models.loading import empty_model
from zephyr.models.new_model import weightless_model
from zephyr.models.source import Source
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


CONTROLS = {"<s>": 1, "<|user|>": 4, "<|end|>": 5}


@pytest.fixture
def stored(tmp_path):
    """A function that stores a model of which the rows of two control tokens are set, and gives where it lies."""

    def store(kind, end, value):
        model = tiny_model(kind)
        with torch.no_grad():
            model.get_parameter(end)[4] = value
            model.get_parameter(end)[5] = value + 1e-6
        model.save_pretrained(tmp_path)
        return Source(str(tmp_path), offline=True), empty_model(Source(str(tmp_path)), dtype="float32")

    return store


@pytest.mark.parametrize("end", ["model.embed_tokens.weight", "lm_head.weight"])
def test_control_tokens_without_trained_rows_are_refused(stored, end):
    source, model = stored("mistral", end, 0.0)
    with pytest.raises(ModelError) as error:
        check_control_tokens(source, model, LoraSection(), CONTROLS)
    where = f"'<|user|>' in {end.removesuffix('.weight')}"
    assert str(error.value) == (
        f"LoRA on MistralForCausalLM: the rows of {where} are untrained, and adapters leave them so; set "
        "modules_to_save: [embed_tokens, lm_head], or choose a chat template whose control tokens the model knows"
    )
    both = LoraSection(modules_to_save=["embed_tokens", "lm_head"])
    check_control_tokens(source, model, both, CONTROLS)
    check_control_tokens(source, model, LoraSection(), {"<s>": 1, "<|end|>": 5})


def test_control_tokens_with_one_and_the_same_row_are_refused(stored):
    source, model = stored("gemma2", "model.embed_tokens.weight", 1e3)  # to which a millionth adds nothing in float32
    with pytest.raises(ModelError, match=r"the rows of '<\|user\|>', '<\|end\|>' in model\.embed_tokens are untrained"):
        check_control_tokens(source, model, LoraSection(), CONTROLS)
    # The head of this model is its embedding: it is enough to train one of them.
    check_control_tokens(source, model, LoraSection(modules_to_save=["embed_tokens"]), CONTROLS)


def test_weights_that_are_not_here_pass(tmp_path):
    check_control_tokens(Source(str(tmp_path), offline=True), tiny_model("mistral"), LoraSection(), CONTROLS)
