import pytest

from zephyr.estimate.model_shape import KNOWN_SHAPES, ModelShape, shape_of, shape_of_new
from zephyr.recipe.model_section import NewModel

TINY = ModelShape(
    vocab_size=10, hidden_size=4, intermediate_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=2
)


def test_weights_of_a_tiny_shape_by_hand():
    # Queries 4 x 4, output 4 x 4, keys 4 x 2, values 4 x 2; three matrices of 4 x 8; two norms of 4.
    assert TINY.attention_parameters == 16 + 16 + 8 + 8
    assert TINY.layer_parameters == 48 + 96 + 8
    assert TINY.parameters == 2 * 152 + 2 * 40 + 4
    assert TINY.multiplied_parameters == 2 * (48 + 96)
    assert TINY.active_parameters == TINY.parameters


def test_weights_of_the_published_models():
    mistral, mixtral = (KNOWN_SHAPES[n] for n in ("mistralai/Mistral-7B-v0.1", "mistral-community/Mixtral-8x22B-v0.1"))
    assert mistral.parameters == 7_241_732_096
    assert mistral.layer_parameters == 218_112_000
    assert mixtral.parameters == 140_620_634_112
    assert mixtral.active_parameters == 39_152_031_744
    assert (mistral.cache_bytes_per_token, mixtral.cache_bytes_per_token) == (131_072, 229_376)


def test_a_configuration_gives_the_shape():
    config = {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    }
    assert shape_of(config) == KNOWN_SHAPES["mistralai/Mistral-7B-v0.1"]
    assert shape_of({"text_config": config}) == shape_of(config)


def test_a_new_model_has_the_shape_of_its_configuration():
    for architecture in ("mistral", "mixtral"):
        model = NewModel(architecture=architecture)
        config = model.model_dump() | {"model_type": architecture}
        experts = {"num_local_experts": 8, "num_experts_per_tok": 2} if architecture == "mixtral" else {}
        assert shape_of_new(model) == shape_of(config | experts)


def test_gpt2_has_names_of_its_own_and_no_gate():
    small = shape_of({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12})
    assert (small.intermediate_size, small.gated, small.tied, small.num_kv_heads) == (3072, False, True, 12)


def test_a_configuration_without_sizes_is_refused():
    with pytest.raises(ValueError, match="lacks num_layers, num_heads, vocab_size"):
        shape_of({"hidden_size": 8})
