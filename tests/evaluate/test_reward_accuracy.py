"""Reward accuracy in parts, and log-probs that are kept."""

import numpy as np
import pytest
import torch

from zephyr.evaluate.harness.finished import FinishedRequests
from zephyr.evaluate.held_out import Pair, answer_logps
from zephyr.evaluate.reward_accuracy import (
    HeldPair,
    kept_logps,
    length_bucket,
    longer_answer,
    margins,
    reward_metrics,
)
from zephyr.models.tiny import tiny_model


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


def test_what_was_scored_is_not_scored_again(tmp_path, monkeypatch):
    model = tiny_model("mistral", seed=0)
    path, shown = tmp_path / "logps.sqlite", []
    finished = FinishedRequests(path, of="model")
    some = kept_logps(model, PAIRS[:2], finished, shown.append, max_tokens=64)
    finished.close()
    scored = []

    def counted(model, pairs, *, max_tokens):
        scored.extend(pairs)
        return answer_logps(model, pairs, max_tokens=max_tokens)

    monkeypatch.setattr("zephyr.evaluate.reward_accuracy.answer_logps", counted)
    finished = FinishedRequests(path, of="model")
    every = kept_logps(model, PAIRS, finished, shown.append, max_tokens=64)
    again = kept_logps(model, PAIRS, finished, shown.append, max_tokens=64)
    finished.close()
    assert len(scored) == 2
    assert torch.equal(every[:2], some)
    assert torch.equal(every, again)
    assert torch.allclose(every, answer_logps(model, [one.pair for one in PAIRS], max_tokens=64), atol=1e-5)
    assert shown == [0, 2, 2, 4, 4]
