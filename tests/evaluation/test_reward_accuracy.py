"""Reward accuracy in parts, and log-probs that are kept."""

from functools import partial

import numpy as np
import pytest
import torch

from zephyr.data.tokenize.templates import jinja_of
from zephyr.errors import ModelError
from zephyr.evaluation.harness.finished import FinishedRequests
from zephyr.evaluation.held_out import Pair, answer_logps
from zephyr.evaluation.reward_accuracy import (
    HeldPair,
    RewardRun,
    kept_scores,
    length_bucket,
    longer_answer,
    margins,
    reward_metrics,
    run_reward_accuracy,
)
from zephyr.models.loading import save_model
from zephyr.models.reward_model import NewHead, own_rewards, with_head
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.records.writing import write_jsonl


def ids(*tokens):
    return np.array(tokens, dtype=np.int64)


def held(prompt, num_chosen, num_rejected, source="s"):
    return HeldPair(Pair(ids(*prompt), ids(*range(3, 3 + num_chosen)), ids(*range(9, 9 + num_rejected))), source)


PAIRS = [held((1, 2), 3, 5, "x"), held((1, 4), 5, 3, "x"), held((1, 5), 4, 4, "y"), held((1, 2), 2, 5, "y")]


def test_metrics_by_hand():
    logps = torch.tensor([[-1.0, -3.0], [-4.0, -1.0], [-2.0, -2.0], [-1.0, -2.0]], dtype=torch.float64)
    ref = torch.tensor([[-2.0, -2.0], [-2.0, -2.0], [-2.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
    # Margins with beta 0.1: 0.2, -0.3, 0 (which is no success), 0.1.
    assert margins(logps, ref, beta=0.1) == pytest.approx([0.2, -0.3, 0.0, 0.1])
    found = reward_metrics(logps, ref, PAIRS, beta=0.1, seed=0)
    assert found.overall.accuracy.score == pytest.approx(0.5)
    assert found.overall.accuracy.n == 3  # prompts: two pairs have the same
    assert found.overall.margin.score == pytest.approx(0.0)
    assert {name: part.accuracy.score for name, part in found.sources.items()} == {"x": 0.5, "y": 0.5}
    assert {name: part.num_pairs for name, part in found.longer.items()} == {
        "about equally long": 1,
        "chosen is longer": 1,
        "rejected is longer": 2,
    }
    assert list(found.lengths) == ["   1-64"]


@pytest.mark.parametrize(
    ("lengths", "name"),
    [((64, 1), "   1-64"), ((1, 65), "  65-128"), ((900, 2), " 513-1024"), ((1, 1025), "1025 and more")],
)
def test_buckets_end_with_their_bound(lengths, name):
    assert length_bucket(held((1,), *lengths).pair) == name


def test_lengths_within_a_tenth_are_alike():
    assert longer_answer(held((1,), 10, 9).pair) == "about equally long"
    assert longer_answer(held((1,), 10, 8).pair) == "chosen is longer"


def test_what_was_scored_is_not_scored_again(tmp_path):
    model = tiny_model("mistral", seed=0)
    path, shown = tmp_path / "logps.sqlite", []
    finished = FinishedRequests(path, of="model")
    score = partial(answer_logps, model, max_tokens=64)
    some = kept_scores(score, PAIRS[:2], finished, shown.append)
    finished.close()
    scored = []

    def counted(pairs):
        scored.extend(pairs)
        return answer_logps(model, pairs, max_tokens=64)

    finished = FinishedRequests(path, of="model")
    every = kept_scores(counted, PAIRS, finished, shown.append)
    again = kept_scores(counted, PAIRS, finished, shown.append)
    finished.close()
    assert len(scored) == 2
    assert torch.equal(every[:2], some)
    assert torch.equal(every, again)
    assert torch.allclose(every, answer_logps(model, [one.pair for one in PAIRS], max_tokens=64), atol=1e-5)
    assert shown == [0, 2, 2, 4, 4]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a reward model, a language model, and pairs."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), tiny_tokenizer()
    tokenizer.chat_template = jinja_of(ChatTemplateSection(name="zephyr", bos=False))
    save_model(tiny_model("llama", vocab_size=384), tokenizer, folder / "policy")
    reward = with_head(tiny_model("llama", vocab_size=384), NewHead(tokenizer, {EOS_ID}, 3))
    save_model(reward, tokenizer, folder / "reward")
    texts = [("A hen", "Cows"), ("Five", "It is 4."), ("No", "Yes, of course"), ("same", "same")]
    rows = [{"prompt": f"Is it {n}?", "chosen": one, "rejected": two} for n, (one, two) in enumerate(texts)]
    write_jsonl(folder / "pairs.jsonl", rows)
    expected = []
    for row in rows[:3]:
        talks = [
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
            for side in ("chosen", "rejected")
        ]
        whole = [np.array(tokenizer.apply_chat_template(talk, tokenize=True)["input_ids"]) for talk in talks]
        expected.append(own_rewards(reward, whole).tolist())
    return folder, expected


def run_of(folder, model, **changes):
    pairs = DataSource(path=str(folder / "pairs.jsonl"))
    return RewardRun(
        str(folder / model), changes.pop("reference", None), pairs, folder / "out", offline=True, **changes
    )


def test_a_reward_model_is_measured_by_its_own_rewards(models):
    folder, expected = models
    for _ in range(2):  # the second time from what is kept
        result = run_reward_accuracy(run_of(folder, "reward"))
        every = result.scores["all"]["all"]
        margins = [chosen - rejected for chosen, rejected in expected]
        assert every["accuracy"] == pytest.approx(np.mean([margin > 0 for margin in margins]))
        assert every["margin"] == pytest.approx(np.mean(margins), abs=1e-4)
        assert (every["pairs"], result.protocol["left_out"]) == (3, {"equal answers": 1})
        assert not {"beta", "reference"} & result.protocol.keys()


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("reward", {"beta": 0.1}, "is a reward model, which has no reference and no beta; leave them out"),
        (
            "policy",
            {},
            "whose rewards are relative to a reference; name the model it was trained from",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(models, model, changes, expected):
    with pytest.raises(ModelError, match=expected):
        run_reward_accuracy(run_of(models[0], model, **changes))
