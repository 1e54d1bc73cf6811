"""Held-out preference metrics and perplexity: hand-worked numbers, and tables of a real tiny model."""

import math

import numpy as np
import pytest
import torch

from zephyr.evaluation.held_out import Pair, answer_logps, perplexity, preference_metrics, prompt_numbers
from zephyr.models.tiny import tiny_model
from zephyr.progress import show_progress
from zephyr.trees.forest import all_scored


def ids(*tokens):
    return np.array(tokens, dtype=np.int64)


def test_accuracy_and_margins_by_hand():
    policy = torch.tensor([[-1.0, -4.0], [-3.0, -2.0], [-5.0, -5.0]], dtype=torch.float64)
    reference = torch.tensor([[-2.0, -3.0], [-3.0, -3.0], [-5.0, -5.0]], dtype=torch.float64)
    found = preference_metrics(policy, reference, prompts=[0, 1, 2], beta=0.5, seed=0)
    # Margins: 0.5 * (1 + 1) = 1, 0.5 * (0 - 1) = -0.5, and 0, which is no success.
    assert found.accuracy.score == pytest.approx(1 / 3)
    assert found.margin.score == pytest.approx(1 / 6)
    assert (found.chosen_reward, found.rejected_reward) == pytest.approx((1 / 6, 0.0))
    assert found.chosen_logps == -3.0


def test_a_model_against_itself_prefers_nothing():
    model = tiny_model("mistral")
    pairs = [Pair(ids(1, 5, 6), ids(7, 8, 2), ids(9, 2)), Pair(ids(1, 9), ids(3, 2), ids(4, 4, 2))]
    logps = answer_logps(model, pairs, max_tokens=64)
    found = preference_metrics(logps, logps.clone(), prompts=prompt_numbers(pairs), beta=0.1, seed=0)
    assert (found.accuracy.score, found.margin.score) == (0, 0)
    # Other batches round otherwise.
    again = answer_logps(model, pairs, max_tokens=8)
    assert again.numpy() == pytest.approx(logps.numpy(), abs=1e-5)


def test_perplexity_is_that_of_the_plain_model():
    model = tiny_model("llama")
    sequence = ids(1, 17, 5, 99, 2)
    with torch.no_grad():
        loss = model(torch.from_numpy(sequence)[None], labels=torch.from_numpy(sequence)[None]).loss
    found = perplexity(model, [all_scored(sequence)], max_tokens=64)
    assert found.num_tokens == 4
    assert found.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-5)


def test_every_scored_row_is_shown(capsys: pytest.CaptureFixture[str]):
    model, pair = tiny_model("mistral"), Pair(ids(1, 5, 6), ids(7, 8, 2), ids(9, 2))
    with show_progress("log-probs", 3) as display:
        answer_logps(model, [pair] * 3, max_tokens=8, display=display)
    with show_progress("perplexity", 2) as display:
        perplexity(model, [all_scored(ids(1, 17, 5, 99, 2))] * 2, max_tokens=5, display=display)
    shown = capsys.readouterr().err
    assert "log-probs: step 3 of 3 (100 %)" in shown
    assert "perplexity: step 1 of 2 (50 %)" in shown
    assert "perplexity: step 2 of 2 (100 %)" in shown
