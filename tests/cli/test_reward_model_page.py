"""The how-to page on reward models: its recipes are valid, and its code gives the rewards that are trained."""

import re

import numpy as np
import yaml

from zephyr.data.tokenize.templates import jinja_of
from zephyr.models.loading import save_model
from zephyr.models.reward_model import NewHead, own_rewards, with_head
from zephyr.models.source import Source
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.schema import Recipe
from zephyr.records.messages import Message
from zephyr.teachers.reward_judge import RewardJudge


def blocks(repository, language):
    page = (repository / "docs/how-to/reward-model.md").read_text()
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", page, re.DOTALL)


def test_its_recipes_are_valid(repository):
    recipe, *others = map(yaml.safe_load, blocks(repository, "yaml"))
    assert Recipe.model_validate(recipe).stages == ("reward",)
    together = recipe | {key: value for other in others for key, value in other.items()}
    together["sft"] = {"data": {"sources": [{"path": "talks.jsonl"}]}, "train": {"learning_rate": 1.0e-5}}
    assert Recipe.model_validate(together).stages == ("sft", "feedback", "reward", "evaluate")


def test_its_code_gives_the_rewards_on_trees(repository, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=False))
    tokenizer.pad_token = tokenizer.eos_token  # as of the Zephyr models: it ends every answer
    model = with_head(tiny_model("mistral", vocab_size=384), NewHead(tokenizer, {EOS_ID}, 3))
    save_model(model, tokenizer, tmp_path / "model")
    (code,) = blocks(repository, "python")
    found = {"folder": tmp_path / "model"}
    exec(compile(code, "reward-model.md", "exec"), found)
    judge = RewardJudge(Source(str(tmp_path / "model")))
    prompt, *_ = (Message(one["role"], one["content"]) for one in found["talks"][0])
    answers = tuple(Message("assistant", talk[1]["content"]) for talk in found["talks"])
    ids = judge.dialogues((prompt,), answers)
    assert np.allclose(found["rewards"], judge.rewards([ids])[0], atol=1e-4)
    assert np.allclose(found["rewards"], own_rewards(model, ids), atol=1e-4)
    assert abs(float(found["rewards"][0] - found["rewards"][1])) > 1e-3
