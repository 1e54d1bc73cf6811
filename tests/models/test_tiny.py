"""Tiny models: one per architecture, the same at every call, and such that forgotten details show."""

import pytest
import torch

from tests.slowly import of_each_kind
from zephyr.models.tiny import BOS_ID, EOS_ID, PAD_ID, TINY, tiny_model, tiny_tokenizer

IDS = torch.arange(4, 44)[None]


def logits(name: str, **changes) -> torch.Tensor:
    model = tiny_model(name)
    for key, value in changes.items():
        assert hasattr(model.config, key)
        setattr(model.config, key, value)
    with torch.no_grad():
        return model(IDS, use_cache=False).logits[0]


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_a_model_is_a_function_of_its_arguments(name):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = tiny_model(name), tiny_model(name), tiny_model(name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights, same, different = first.state_dict(), again.state_dict(), other.state_dict()
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert any(not torch.equal(weights[key], different[key]) for key in weights)
    assert not first.training
    assert first.config.model_type == name


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_two_dtypes_hold_the_same_model(name):
    single = tiny_model(name).state_dict()
    half = tiny_model(name, dtype=torch.bfloat16).state_dict()
    assert all(half[key].dtype == torch.bfloat16 for key in half if half[key].is_floating_point())
    assert all(torch.equal(single[key].to(half[key].dtype), half[key]) for key in single)


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_float64_is_marked_where_it_works(name):
    model = tiny_model(name, dtype=torch.float64)
    try:
        in_float64 = model(IDS, use_cache=False).logits.dtype == torch.float64
    except RuntimeError:  # an operator without float64
        in_float64 = False
    assert in_float64 == TINY[name].float64


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_the_future_changes_nothing_and_the_past_does(name):
    model = tiny_model(name)
    changed = IDS.clone()
    changed[0, 20] += 1
    with torch.no_grad():
        before, after = (model(ids, use_cache=False).logits[0] for ids in (IDS, changed))
    assert torch.allclose(before[:20], after[:20], atol=1e-5)
    assert not torch.allclose(before[20:], after[20:], atol=1e-3)


@pytest.mark.parametrize("name", of_each_kind(name for name in TINY if TINY[name].sliding))
def test_windows_bite(name):
    full = tiny_model(name, sliding_window=1000)
    windowed = tiny_model(name, sliding_window=8)
    with torch.no_grad():
        difference = (full(IDS).logits - windowed(IDS).logits).abs().amax(dim=-1)[0]
    assert difference[:8].max() < 1e-5
    assert difference[8:].min() > 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 1.0}),
    ],
)
def test_multipliers_and_caps_bite(name, changes):
    difference = (tiny_model(name)(IDS).logits - logits(name, **changes)).abs().max()
    assert difference > 0.1


def test_scores_of_gemma2_are_capped():
    model = tiny_model("gemma2")
    with torch.no_grad():
        capped = model(IDS).logits
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert (capped - model(IDS).logits).abs().max() > 1e-3


def test_gemma3_alternates_window_and_full():
    assert tiny_model("gemma3_text", layers=4).config.layer_types == [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
    ]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"^no tiny model named 'mistrall'; did you mean 'mistral'\?$"):
        tiny_model("mistrall")
    with pytest.raises(ValueError, match=r"^hidden must be a multiple of 8, got 30$"):
        tiny_model("llama", hidden=30)
    with pytest.raises(ValueError, match=r"^vocab_size must be at least 260, got 200$"):
        tiny_tokenizer(vocab_size=200)


def test_sizes_are_as_asked():
    config = tiny_model("qwen3", vocab_size=300, hidden=64, layers=3).config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (300, 64, 3)


def test_tokenizer_loses_nothing_and_knows_its_specials():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == 384
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        BOS_ID,
        EOS_ID,
        PAD_ID,
    )
    text = "Zürich 東京 🙂\n\n  <|user|> x = 1"
    ids = tokenizer(text).input_ids
    assert ids[0] == BOS_ID
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("</s>", add_special_tokens=False).input_ids == [EOS_ID]


def test_chat_template_renders_like_zephyr():
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
    tokenizer = tiny_tokenizer()
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|system|>\n</s>\n<|user|>\nHi</s>\n<|assistant|>\n"
    answered = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "Hello!"}], tokenize=False)
    assert answered == "<|system|>\n</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n"


def test_tokenizer_is_the_same_in_every_process():
    assert tiny_tokenizer()("The capital of France is 42!").input_ids == [
        1,
        278,
        357,
        347,
        351,
        267,
        224,
        23,
        21,
        4,
    ]
