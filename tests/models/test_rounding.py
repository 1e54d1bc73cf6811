"""How far rounding moves log-probs, measured: it covers what layouts differ by, and no fault hides below it."""

import dataclasses

import pytest
import torch

from tests.train.test_invariants import make_pairs, make_scorer, sequences_of
from zephyr.errors import InvariantError
from zephyr.models.rounding import LEAST_ROUNDING, least_rounding, measured_rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.train.checks.invariants import check_layouts_agree
from zephyr.trees.forest import build_forest


def sharp_scorer(dtype=torch.float32):
    """A scorer whose logits are as far apart as those of a trained model, so that they round more coarsely."""
    model = tiny_model("mistral")
    with torch.no_grad():
        model.lm_head.weight.mul_(100)
    autocast = dtype if dtype != torch.float32 else None
    return ForestScorer(model, autocast=autocast)


def largest_difference(scorer, sequences):
    """Between one forest of all and one each, in units of a token's deviation."""
    together = scorer(build_forest(sequences))
    alone = torch.cat([scorer(build_forest([sequence])).logps for sequence in sequences])
    return float(((together.logps - alone).double().abs() / together.num_tokens.sqrt()).max())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measure_covers_what_layouts_differ_by_where_the_constant_does_not(dtype):
    scorer, (sequences, names) = sharp_scorer(dtype), sequences_of(make_pairs(12))
    rounding = measured_rounding(scorer, sequences, dtype=dtype)
    assert rounding.per_token > 2 * LEAST_ROUNDING[dtype]
    assert largest_difference(scorer, sequences) < 6 * rounding.per_token
    check_layouts_agree(scorer, sequences, names, rounding=rounding)


def test_large_terms_that_cancel_leave_their_roundings():
    """A hidden size of one huge number, as trained models have: what it adds cancels in the weights' next row."""
    (sequences, _) = sequences_of(make_pairs(3))
    plain, huge = tiny_model("mistral"), tiny_model("mistral")
    with torch.no_grad():
        for layer in huge.model.layers:
            # Two columns that are given the same number and opposite weights: the product is what it was before.
            layer.mlp.gate_proj.weight[1] = layer.mlp.gate_proj.weight[0]
            layer.mlp.up_proj.weight[1] = layer.mlp.up_proj.weight[0]
            layer.mlp.down_proj.weight[:, 0], layer.mlp.down_proj.weight[:, 1] = 1e4, -1e4
    measured = [measured_rounding(ForestScorer(one), sequences, dtype=torch.float32).per_token for one in (plain, huge)]
    assert measured[1] > 100 * measured[0]


def test_the_scorer_is_left_as_it_was():
    scorer, (sequences, _) = make_scorer(), sequences_of(make_pairs(3))
    forest = build_forest(sequences)
    before = scorer(forest).logps
    first, second = (measured_rounding(scorer, sequences, dtype=torch.float32) for _ in range(2))
    assert first == second
    assert torch.equal(scorer(forest).logps, before)
    assert scorer.training


def test_a_model_that_rounds_little_is_given_the_least():
    scorer, (sequences, _) = make_scorer(), sequences_of(make_pairs(3))
    with torch.no_grad():
        scorer.transformers_model.lm_head.weight.mul_(0.1)
    assert measured_rounding(scorer, sequences, dtype=torch.float32) == least_rounding(torch.float32)


def test_a_fault_is_seen_above_the_measured_rounding():
    scorer, (sequences, names) = sharp_scorer(), sequences_of(make_pairs(3))
    rounding = measured_rounding(scorer, sequences, dtype=torch.float32)

    def shifted(forest):
        """Positions that run on from one sequence to the next."""
        on = dataclasses.replace(forest, position=torch.arange(forest.num_tokens))
        return scorer(on if forest.num_sequences > 1 else forest)

    with pytest.raises(InvariantError, match="packed with others a sequence has other log-probs than alone"):
        check_layouts_agree(shifted, sequences, names, rounding=rounding)
