"""Reward models: rewards on shared trees beside transformers' own padded forward, the head, and the padding."""

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

from zephyr.errors import ModelError
from zephyr.models.adapters import add_lora, save_adapter
from zephyr.models.loading import save_model
from zephyr.models.own_forward import check_scorer
from zephyr.models.reward_model import (
    NewHead,
    is_reward_model,
    load_reward_model,
    load_start,
    own_rewards,
    pad_token,
    read_ids,
    reward_model_of,
    with_head,
)
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.models.tiny import BOS_ID, EOS_ID, PAD_ID, UNK_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.train_section import LoraSection
from zephyr.trees.forest import build_forest, last_scored

PROMPT = [BOS_ID, 7, 8, 9, 10]
ANSWERS = ([11, 12, EOS_ID], [11, 13, 14, 15, EOS_ID], [16, EOS_ID])


def tree_rewards(model):
    """The rewards of three answers to a prompt that stands once."""
    with torch.no_grad():
        return ForestScorer(model)(build_forest([last_scored(PROMPT, answer) for answer in ANSWERS])).logps


def padded_rewards(model):
    return own_rewards(model, [np.array([*PROMPT, *answer]) for answer in ANSWERS])


def new_reward_model(architecture="llama"):
    return with_head(tiny_model(architecture, vocab_size=384), NewHead(tiny_tokenizer(), {EOS_ID}, 5))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "gemma2", "gpt2", "mixtral"])
def test_rewards_on_a_tree_are_those_of_transformers(architecture):
    model = new_reward_model(architecture)
    own = padded_rewards(model)
    assert own.std() > 1e-3
    assert torch.allclose(tree_rewards(model), own, atol=2e-5)


def test_the_saved_folder_gives_the_same_rewards_wherever_it_is_padded(tmp_path):
    model, tokenizer = new_reward_model(), tiny_tokenizer()
    before = padded_rewards(model)
    save_model(model, tokenizer, tmp_path / "reward")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert type(loaded).__name__ == "LlamaForSequenceClassification"
    pad, whole = loaded.config.pad_token_id, [[*PROMPT, *answer] for answer in ANSWERS]
    for pads in (lambda ids: [pad] * (10 - len(ids)) + ids, lambda ids: ids + [pad] * (10 - len(ids))):
        ids = torch.tensor([pads(one) for one in whole])
        mask = torch.tensor([pads([1] * len(one)) for one in whole]).eq(1)
        with torch.no_grad():
            rewards = loaded(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
        assert torch.allclose(rewards.double(), before, atol=1e-5)
    assert is_reward_model(Source(str(tmp_path / "reward")))
    again = load_start(Source(str(tmp_path / "reward")), NewHead(tokenizer, {EOS_ID}, 77), dtype="float32")
    assert torch.equal(again.score.weight, model.score.weight)  # it keeps its head


def test_the_head_follows_from_the_seed():
    first, same, other = (reward_model_of(tiny_model("llama"), seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.2, rel=0.4)  # the initializer_range of tiny models


def test_adapters_train_the_head_in_full_and_load_in_peft(tmp_path):
    model, source = tiny_model("llama", vocab_size=384), tmp_path / "base"
    save_model(model, tiny_tokenizer(), source)
    start = load_start(Source(str(source)), NewHead(tiny_tokenizer(), {EOS_ID}, 5), dtype="float32")
    adapted = add_lora(start, LoraSection(r=2))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("score.modules_to_save" in name for name in trained)
    assert not any("lora" in name and "score" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in trained:
                parameter.normal_(std=0.1)
    expected = tree_rewards(adapted)
    save_adapter(adapted, tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=1)
    loaded.base_model.config.pad_token_id = start.config.pad_token_id
    assert torch.allclose(padded_rewards(loaded.get_base_model()), expected, atol=1e-4)


def test_padding_is_no_token_that_dialogues_end_in():
    tokenizer = tiny_tokenizer()
    assert pad_token(tokenizer, {EOS_ID}) == PAD_ID
    tokenizer.pad_token = tokenizer.eos_token
    assert pad_token(tokenizer, {EOS_ID}) == UNK_ID
    assert pad_token(tokenizer, {EOS_ID, UNK_ID}) == BOS_ID
    with pytest.raises(ModelError, match="has no special token that ends no answer"):
        pad_token(tokenizer, set(range(384)))


def test_a_reward_is_read_before_trailing_padding():
    assert read_ids(np.array([5, 3, 6, 3, 3]), 3).tolist() == [5, 3, 6]
    assert read_ids(np.array([5, 3, 6]), None).tolist() == [5, 3, 6]


def test_an_architecture_without_such_a_class_is_refused():
    with pytest.raises(ModelError, match=r"MambaForCausalLM: transformers has no ForSequenceClassification for it;"):
        reward_model_of(tiny_model("mamba"))


def test_a_language_model_is_no_reward_model(tmp_path):
    save_model(tiny_model("llama", vocab_size=384), tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(ModelError, match="is not a reward model"):
        load_reward_model(Source(str(tmp_path / "model")))


def test_a_probe_that_ends_in_padding_is_read_before_it():
    model = new_reward_model()
    model.config.pad_token_id = EOS_ID
    check_scorer(ForestScorer(model), [np.array([*PROMPT, *answer]) for answer in ANSWERS])


def test_a_scorer_that_reads_another_head_is_stopped(monkeypatch):
    model = new_reward_model()
    scorer = ForestScorer(model)
    check_scorer(scorer, [np.array([*PROMPT, *answer]) for answer in ANSWERS])
    monkeypatch.setattr("zephyr.models.scorer.effective_weight", lambda layer: (1.01 * layer.weight, None))
    with pytest.raises(ModelError, match="LlamaForSequenceClassification: its own forward gives other rewards"):
        check_scorer(scorer, [np.array([*PROMPT, *answer]) for answer in ANSWERS])
