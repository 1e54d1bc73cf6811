"""New models and tokenizers: without loss, the same from the same seed, and saved with how they sample."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from zephyr.models.loading import save_model
from zephyr.models.new_model import new_model, set_generation
from zephyr.models.tokenizers import MIN_VOCABULARY, learn_tokenizer
from zephyr.recipe.teacher_section import SamplingSection

TEXTS = ["the cat sat on the mat", "the dog ate 2024 cats", "<|user|>\n"] * 20
TOKENIZER = learn_tokenizer(TEXTS, vocab_size=300, max_length=64)
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@settings(max_examples=60)
@given(st.text())
def test_no_text_is_lost(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_what_is_common_becomes_one_token_and_digits_stay_apart():
    assert MIN_VOCABULARY < len(TOKENIZER) <= 300
    assert TOKENIZER.tokenize("<|user|>") != list("<|user|>")
    assert TOKENIZER.tokenize("2024") == list("2024")
    assert TOKENIZER("the").input_ids[0] == TOKENIZER.bos_token_id
    assert (
        learn_tokenizer(TEXTS, vocab_size=300, max_length=64, bos=False)("the").input_ids[0] != TOKENIZER.bos_token_id
    )


def test_a_new_model_follows_from_its_seed_and_leaves_the_dice_alone():
    state = torch.get_rng_state()
    first, again, other = (new_model("mistral", SIZES, TOKENIZER, seed=seed, dtype=torch.float32) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (len(TOKENIZER), 16)


def test_a_saved_model_says_how_it_samples(tmp_path):
    model = new_model("llama", SIZES, TOKENIZER, seed=1, dtype=torch.float32)
    set_generation(model, TOKENIZER, SamplingSection(), stop_ids=(2,))
    save_model(model, TOKENIZER, tmp_path / "model")
    read = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (read.do_sample, read.temperature, read.top_k, read.top_p) == (True, 0.7, 50, 0.95)
    assert (read.eos_token_id, read.pad_token_id) == ([2], 3)
