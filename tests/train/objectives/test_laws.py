"""Laws of all objectives: no cut changes loss, gradient or metrics, and tables serve the coupled ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.train.objectives.tables import OBJECTIVES, examples_for, label, problem
from zephyr.train.examples import check_examples

COUPLED = [objective for objective in OBJECTIVES if objective.coupled]
FREE = [objective for objective in OBJECTIVES if not objective.coupled]


def weights():
    return torch.tensor([0.3, -0.7, 0.5], dtype=torch.float64, requires_grad=True)


@st.composite
def cuts(draw):
    """Six rows in any order, in any micro-batches, some of which may be empty."""
    order = draw(st.permutations(range(6)))
    ends = sorted(draw(st.lists(st.integers(0, 6), max_size=4)))
    return [order[start:end] for start, end in zip([0, *ends], [*ends, 6], strict=True)]


@pytest.mark.parametrize("objective", FREE, ids=label)
@settings(max_examples=12)
@given(parts=cuts())
def test_any_cut_gives_the_same_loss_gradient_and_metrics(objective, parts):
    torch.manual_seed(1)
    case = problem(objective)
    whole, cut = weights(), weights()
    table = case.scored(whole, range(6))
    loss, metrics = objective.loss(table, case.totals), objective.metrics(table)
    loss.backward()
    shares = []
    added = dict.fromkeys(metrics, 0.0), dict.fromkeys(metrics, 0.0)
    for rows in parts:
        table = case.scored(cut, rows)
        share = objective.loss(table, case.totals)
        share.backward()
        shares.append(share.detach())
        for name, metric in objective.metrics(table).items():
            added[0][name] += metric.total
            added[1][name] += metric.weight
    assert_close(sum(shares), loss.detach())
    assert_close(cut.grad, whole.grad)
    for name, metric in metrics.items():
        assert_close(added[0][name], metric.total)
        assert_close(added[1][name], metric.weight)


@pytest.mark.parametrize("objective", COUPLED, ids=label)
@settings(max_examples=12)
@given(parts=cuts())
def test_coupled_gradient_through_the_table_is_the_direct_one(objective, parts):
    torch.manual_seed(1)
    case = problem(objective)
    direct, through = weights(), weights()
    objective.loss(case.scored(direct, range(6)), case.totals).backward()
    with torch.no_grad():
        table = case.scored(through, range(6))
    logps = table.logps.requires_grad_()
    (coefficients,) = torch.autograd.grad(objective.loss(table, case.totals), logps)
    for rows in parts:
        (coefficients[list(rows)] * case.scored(through, rows).logps).sum().backward()
    assert direct.grad.abs().max() > 1e-3
    assert_close(through.grad, direct.grad)


@pytest.mark.parametrize("objective", COUPLED, ids=label)
def test_coupled_objectives_refuse_a_part_of_the_batch(objective):
    case = problem(objective)
    part = case.scored(weights(), range(2))
    with pytest.raises(ValueError, match="couples all 6 examples of the global batch, got 2 of them"):
        objective.loss(part, case.totals)


def test_those_that_sort_or_average_over_the_batch_are_coupled():
    names = {getattr(objective.options, "loss_type", objective.name) for objective in COUPLED}
    assert names == {"aot", "aot_unpaired", "kto_pair", "bco_pair", "kto"}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=label)
def test_gradient_reaches_every_scored_column_but_the_kl_one(objective):
    case = problem(objective)
    table = case.scored(weights(), range(6))
    (slopes,) = torch.autograd.grad(objective.loss(table, case.totals), table.logps)
    reached = [name for name, column in zip(objective.columns, slopes.T, strict=True) if column.any()]
    assert reached == [name for name in objective.columns if name != "mismatched"]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=label)
def test_metrics_carry_no_gradient_and_losses_are_scalars(objective):
    case = problem(objective)
    table = case.scored(weights(), range(6))
    assert objective.loss(table, case.totals).shape == ()
    assert set(objective.metrics(table)) == set(objective.options.metrics)
    for metric in objective.metrics(table).values():
        assert not metric.total.requires_grad
        assert metric.total.shape == metric.weight.shape == ()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=label)
def test_layout_has_a_sequence_a_column_and_totals_count_its_tokens(objective):
    examples = examples_for(objective)
    check_examples(examples)
    rows = [objective.sequences(example) for example in examples]
    assert {len(row) for row in rows} == {len(objective.columns)}
    assert not any(sequence.scored[:1].any() for row in rows for sequence in row)
    totals = objective.totals(examples)
    assert totals.num_examples == 6
    assert totals.num_tokens == tuple(
        sum(int(row[column].scored.sum()) for row in rows) for column in range(len(objective.columns))
    )
    assert objective.labels(examples).shape == (6, len(objective.columns))


@pytest.mark.parametrize("objective", [one for one in OBJECTIVES if one.needs_reference], ids=label)
def test_a_missing_reference_is_an_error(objective):
    case = problem(objective)
    table = case.scored(weights(), range(6))._replace(ref_logps=None)
    with pytest.raises(ValueError, match="compares with a reference: ref_logps must not be None"):
        objective.loss(table, case.totals)


@pytest.mark.parametrize("objective", [one for one in OBJECTIVES if one.name in ("dpo", "listwise")], ids=label)
def test_policy_equal_to_reference_has_no_rewards_and_no_hits(objective):
    case = problem(objective)
    table = case.scored(weights(), range(6))
    table = table._replace(ref_logps=table.logps.detach())
    metrics = objective.metrics(table)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert metrics[name].total.item() == 0.0
