"""Run-time proofs on data and numbers: what is supervised, and that loss and gradient are finite."""

import math

import pytest
import torch

from tests.train.test_invariants import DPO, make_pairs, make_scorer, table_of
from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import ABSENT
from zephyr.train.checks.invariants import check_finite, check_supervision
from zephyr.trees.forest import all_scored, completion_scored

STOP = 2


def test_supervision_is_counted_once_a_token():
    rows = [
        [completion_scored([5, 6, 7], [8, STOP]), completion_scored([5, 6, 7], [9])],
        [all_scored([5, 6, 7]), completion_scored([5, 6], [7]), ABSENT],  # the same ids twice, one mask in the other
    ]
    found = check_supervision(rows, ["a", "b"], stop_ids=[STOP])
    assert found == (9, 5, 1, 2)
    assert found.share == 5 / 9
    assert check_supervision([rows[1][::-1]], ["b"], stop_ids=[], all_allowed=True) == (2, 2, 0, 1)


@pytest.mark.parametrize(
    "row",
    [[completion_scored([5, 6], [])], [ABSENT], [completion_scored([5], [STOP]), completion_scored([5], [])]],
)
def test_nothing_supervised_is_named(row):
    good = [completion_scored([5, 6], [7, STOP])]
    with pytest.raises(InvariantError) as caught:
        check_supervision([good, row, good], ["row 1", "row 2", "row 3"], stop_ids=[STOP])
    assert str(caught.value) == (
        "supervised tokens: 1 of 3 examples have a sequence without any (row 2); usually truncation removed "
        "the answer, or the chat template marks no assistant turn; raise max_length, remove these examples, "
        "or look at the loss mask with `zephyr inspect`"
    )


def test_many_unsupervised_examples_are_counted_and_a_few_named():
    rows = [[completion_scored([5, 6], [])]] * 5
    with pytest.raises(InvariantError, match=r"5 of 5 examples have .* \(0, 1, 2 and 2 more\)"):
        check_supervision(rows, list("01234"), stop_ids=[STOP])
    with pytest.raises(InvariantError, match=r"0 of 0 examples have .* \(there are no examples\)"):
        check_supervision([], [], stop_ids=[STOP])


def test_everything_supervised_is_a_fault_unless_it_is_meant():
    rows = [[all_scored([5, 6, STOP])], [all_scored([5, STOP])]]
    with pytest.raises(InvariantError, match="all 3 tokens are supervised, including prompts; usually"):
        check_supervision(rows, ["a", "b"], stop_ids=[STOP])
    assert check_supervision(rows, ["a", "b"], stop_ids=[STOP], all_allowed=True).share == 1.0


def test_no_stop_token_among_the_supervised():
    rows = [[completion_scored([5, STOP], [6, 7])]]
    with pytest.raises(InvariantError) as caught:
        check_supervision(rows, ["a"], stop_ids=[3, STOP])
    assert str(caught.value).startswith(
        "supervised tokens: no stop token (id 2, 3) is among the 2, so the model would not learn to end "
    )
    assert check_supervision(rows, ["a"], stop_ids=[]).num_with_stop == 0


def test_finite_numbers_pass_without_a_look_at_the_weights():
    def explode():
        raise AssertionError
        yield

    check_finite(0.5, 1.0, step=3, parameters=explode())


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (1.0, math.inf), (-math.inf, math.nan)])
def test_a_broken_number_stops_the_step(loss, grad_norm):
    with pytest.raises(InvariantError) as caught:
        check_finite(loss, grad_norm, step=12, names=["row 1", "row 2"])
    assert str(caught.value) == (
        f"step 12: the loss is {loss} and the gradient norm {grad_norm}; examples of the step: row 1, row 2; "
        "the optimizer has not stepped; lower learning_rate, use bf16 or float32 instead of fp16, and look "
        "at the examples"
    )


def test_a_broken_weight_and_the_examples_it_hits_are_named():
    scorer, pairs = make_scorer(), make_pairs(5)
    logps = table_of(scorer, DPO, pairs).logps
    with torch.no_grad():
        scorer.causal_lm.get_input_embeddings().weight[int(pairs[2].prompt[-1])] = math.nan
    logps[2] = table_of(scorer, DPO, pairs[2:3]).logps
    with pytest.raises(InvariantError) as caught:
        check_finite(
            float(logps.sum()),
            1.0,
            step=0,
            names=[pair.name for pair in pairs],
            logps=logps,
            parameters=scorer.named_parameters(),
        )
    assert str(caught.value) == (
        "step 0: the loss is nan and the gradient norm 1.0; weights that are not finite: "
        "causal_lm.model.embed_tokens.weight; examples whose log-prob is not finite: pairs.jsonl row 3; "
        "the optimizer has not stepped; start again from a model or checkpoint without such weights"
    )
