"""The gradient of a step with a router's balance loss is that of padded rows in transformers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.errors import RecipeError
from zephyr.models.batch_scoring import forest_of, token_visits
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.recipe.train_section import TrainSection
from zephyr.train.job import build_scorer
from zephyr.train.step import accumulate_gradients, make_batch
from zephyr.trees.forest import all_scored, completion_scored

COEF = 0.3
# The first three share three tokens, and the fourth repeats the first.
TEXTS = [[5, 6, 7, 8, 9, 10], [5, 6, 7, 11], [5, 6, 7, 8, 12], [5, 6, 7, 8, 9, 10], [13, 14, 15, 16, 17, 18, 19]]


def dialogues():
    return [Dialogue(f"row {n}", np.array(ids), np.arange(len(ids)) > 0) for n, ids in enumerate(TEXTS)]


def test_visits_count_every_computation_that_is_shared():
    pair = [completion_scored([1, 2], [3]), completion_scored([1, 2], [4, 5])]
    rows = [pair, [all_scored([1, 2, 3]), all_scored([9])]]
    # Flat: 1 2 3 4 5 9. Both rows run through 1 2 3; of the first row 4 5 too, of the second 9.
    assert forest_of(rows, 2).ids.tolist() == [1, 2, 3, 4, 5, 9]
    assert token_visits(rows, 2).tolist() == [3, 3, 2, 1, 1, 1]


def test_a_sequence_that_repeats_or_begins_another_of_its_row_is_no_visit():
    chosen = completion_scored([1, 2], [3, 4])
    row = [all_scored([1, 2, 3, 4]), chosen, all_scored([1, 2, 3])]
    assert token_visits([row], 3).tolist() == [1, 1, 1, 1]
    assert token_visits([row, row], 3).tolist() == [2, 2, 2, 2]
    assert token_visits([], 3).tolist() == []


def settings(max_tokens):
    train = TrainSection(learning_rate=1.0, router_aux_loss_coef=COEF)
    return train.model_copy(update={"max_tokens_per_micro_batch": max_tokens})  # fewer than a recipe may ask for


@pytest.mark.parametrize("max_tokens", [7, 12, 1000])
def test_the_balance_loss_and_its_gradient_are_those_of_padded_rows(max_tokens):
    ours, theirs = tiny_model("mixtral"), tiny_model("mixtral")
    width = max(map(len, TEXTS))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in TEXTS])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in TEXTS])
    output = theirs(input_ids=ids, attention_mask=mask, output_router_logits=True)
    balance = load_balancing_loss_func(output.router_logits, 4, 2, mask)
    targets = ids.masked_fill(mask == 0, -100)[:, 1:]
    nll = cross_entropy(output.logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
    (nll + COEF * balance).backward()

    objective = make_objective("sft", {})
    scorer, train = ForestScorer(ours, keep_router_logits=True), settings(max_tokens)
    shares = accumulate_gradients(scorer, make_batch(objective, dialogues(), None), train)
    assert float(sum(share.loss for share in shares)) == pytest.approx((nll + COEF * balance).item(), abs=2e-6)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=2e-6, rtol=1e-5), name


def test_pairs_are_balanced_as_two_rows_each():
    pairs = [Comparison("row 1", np.array([5, 6]), (np.array([7, 8]), np.array([9])), (1.0, 0.0))]
    model = tiny_model("mixtral")
    rows = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        logits = model(input_ids=rows, attention_mask=mask, output_router_logits=True).router_logits
    expected = COEF * load_balancing_loss_func(logits, 4, 2, mask)
    # ORPO lists the chosen sequence twice: with its prompt scored, and without.
    for name, options in (("orpo", {"beta": 0.1}), ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5})):
        objective = make_objective(name, options)
        scorer, train = ForestScorer(model, keep_router_logits=True), settings(100)
        _, balance = accumulate_gradients(scorer, make_batch(objective, pairs, None), train)
        assert float(balance.loss) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["mistral", "mamba"])
def test_a_model_without_experts_has_no_balance(name):
    settings = TrainSection(learning_rate=1e-3, router_aux_loss_coef=COEF, precision="float32")
    with pytest.raises(RecipeError, match=r"router_aux_loss_coef: .*ForCausalLM chooses no experts"):
        build_scorer(tiny_model(name), settings)
