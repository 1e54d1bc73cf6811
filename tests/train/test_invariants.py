"""Run-time proofs pass on sound training and stop it, with words that fit, where a fault is planted."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.slowly import of_each_kind
from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison
from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import score_table
from zephyr.models.rounding import least_rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import TINY, tiny_model
from zephyr.train.checks.invariants import (
    check_first_loss,
    check_layouts_agree,
    check_no_leak,
    check_reference_agrees,
)
from zephyr.train.examples import with_mismatched_completions
from zephyr.train.losses.pairs import PAIR_LOSSES
from zephyr.train.objectives import Scored
from zephyr.trees import forest, rule
from zephyr.trees.forest import all_scored, build_forest, completion_scored

CPU = torch.device("cpu")
DPO = make_objective("dpo", {"beta": 0.1})


def make_pairs(num=6, completions=2, seed=0):
    draw = np.random.default_rng(seed)
    return [
        Comparison(
            name=f"pairs.jsonl row {n + 1}",
            prompt=draw.integers(4, 128, draw.integers(2, 10)),
            completions=tuple(draw.integers(4, 128, length) for length in draw.integers(2, 14, completions)),
            ratings=tuple(range(completions, 0, -1)),
        )
        for n in range(num)
    ]


def sequences_of(pairs):
    rows = [DPO.sequences(pair) for pair in pairs]
    names = [pair.name for pair in pairs for _ in range(2)]
    return [sequence for row in rows for sequence in row], names


def make_scorer(name="mistral", **settings):
    return ForestScorer(tiny_model(name, **settings))


def table_of(scorer, objective, examples, max_tokens=60):
    rows = [objective.sequences(example) for example in examples]
    return score_table(scorer, rows, max_tokens=max_tokens, device=CPU)


def first_loss(scorer, objective, examples, ref_logps):
    """The loss of the first step, from micro-batches of another cut than the reference's."""
    table = table_of(scorer, objective, examples, max_tokens=50)
    totals = objective.totals(examples)
    parts = [slice(None)] if objective.coupled else [slice(0, 2), slice(2, None)]
    labels = objective.labels(examples)
    return sum(
        float(
            objective.loss(
                Scored(table.logps[p], table.num_tokens[p], ref_logps[p], table.mean_logits[p], labels[p]),
                totals,
            )
        )
        for p in parts
    )


@pytest.fixture
def leak(monkeypatch):
    """Attention that is causal over the whole row: sequences see what was packed before them."""

    def everything_before(forest, window=None):
        return torch.ones(forest.num_tokens, forest.num_tokens, dtype=torch.bool).tril()

    monkeypatch.setattr(rule, "visible", everything_before)
    monkeypatch.setattr("zephyr.trees.attention.pick_attention", lambda *_, **__: rule.eager_attention)


# Step 0

OBJECTIVES = [
    *[("dpo", {"beta": 0.1, "loss_type": loss_type}) for loss_type in PAIR_LOSSES],
    ("dpo", {"beta": 2.0}),
    ("dpo", {"beta": 0.1, "rpo_alpha": 0.5}),
    ("dpo", {"beta": 0.1, "ld_alpha": 0.3}),
    ("dpo", {"beta": 0.1, "label_smoothing": 0.2}),
    ("kto", {"beta": 0.1, "undesirable_weight": 3.0}),
    ("listwise", {"beta": 0.1, "num_completions": 4}),
]


def examples_for(name):
    if name == "kto":
        single = [
            pair._replace(completions=pair.completions[:1], ratings=(float(n % 2),))
            for n, pair in enumerate(make_pairs())
        ]
        return with_mismatched_completions(single)
    return make_pairs(completions=4 if name == "listwise" else 2)


@pytest.mark.parametrize(("name", "options"), OBJECTIVES, ids=str)
def test_first_loss_of_every_objective_with_a_reference(name, options):
    objective, examples = make_objective(name, options), examples_for(name)
    scorer = make_scorer()
    ref_logps = table_of(scorer, objective, examples).logps
    loss = first_loss(scorer, objective, examples, ref_logps)
    check_first_loss(loss, objective, examples, ref_logps, rounding=least_rounding(torch.float32))
    for wrong in (loss * 6, loss + 1e-4 * max(1, abs(loss)), math.nan, math.inf):
        with pytest.raises(InvariantError, match="the policy is still its own reference"):
            check_first_loss(wrong, objective, examples, ref_logps, rounding=least_rounding(torch.float32))


@pytest.mark.parametrize(
    ("loss_type", "value"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("sppo_hard", 50.0)]
)
def test_first_loss_is_the_number_of_the_paper(loss_type, value):
    objective, examples = make_objective("dpo", {"beta": 0.1, "loss_type": loss_type}), make_pairs()
    ref_logps = -torch.rand(6, 2, dtype=torch.float64) * 300
    check_first_loss(value, objective, examples, ref_logps, rounding=least_rounding(torch.float64))
    with pytest.raises(InvariantError) as caught:
        check_first_loss(value * 6, objective, examples, ref_logps, rounding=least_rounding(torch.float64))
    assert f"step 0: the policy is still its own reference, so the dpo loss must be {value:.6f} " in str(caught.value)
    assert f"got {value * 6:.6f}, 6.00 times that; usually sequences of a micro-batch see" in str(caught.value)


def test_first_loss_in_float32_is_held_to_a_millionth():
    examples = make_pairs(32)
    ref_logps = -torch.rand(32, 2, dtype=torch.float64) * 300
    check_first_loss(math.log(2) + 9e-7, DPO, examples, ref_logps, rounding=least_rounding(torch.float32))
    with pytest.raises(InvariantError, match=r"within 1e-06\), got 0.693149"):
        check_first_loss(math.log(2) + 1.5e-6, DPO, examples, ref_logps, rounding=least_rounding(torch.float32))
    check_first_loss(math.log(2) + 1e-2, DPO, examples, ref_logps, rounding=least_rounding(torch.bfloat16))


def test_first_loss_leaves_room_for_rounding_where_beta_is_large():
    examples = make_pairs(1)
    objective = make_objective("dpo", {"beta": 50.0})
    logps = torch.full((1, 2), -300.0, dtype=torch.float64)
    check_first_loss(math.log(2) + 2e-4, objective, examples, logps, rounding=least_rounding(torch.float32))
    with pytest.raises(InvariantError):
        check_first_loss(math.log(2) + 2e-3, objective, examples, logps, rounding=least_rounding(torch.float32))


def test_first_loss_sees_a_leak(leak):
    scorer, examples = make_scorer(), make_pairs()
    alone = torch.cat([scorer(build_forest([one])).logps for one in sequences_of(examples)[0]])
    alone = alone.detach().view(-1, 2)
    loss = first_loss(scorer, DPO, examples, alone)
    with pytest.raises(InvariantError, match=r"must be 0\.693147"):
        check_first_loss(loss, DPO, examples, alone, rounding=least_rounding(torch.float32))


def test_reference_agrees_with_itself_in_another_layout():
    scorer, pairs = make_scorer(), make_pairs()
    policy, stored = table_of(scorer, DPO, pairs), table_of(scorer, DPO, pairs, max_tokens=1000)
    names = [pair.name for pair in pairs]
    check_reference_agrees(policy.logps, stored.logps, policy.num_tokens, names, rounding=least_rounding(torch.float32))


@pytest.mark.parametrize("fault", ["other model", "other row", "nan"])
def test_wrong_reference_is_named(fault):
    scorer, pairs = make_scorer(), make_pairs()
    policy = table_of(scorer, DPO, pairs)
    stored = policy.logps.clone()
    if fault == "other model":
        stored = table_of(make_scorer(seed=1), DPO, pairs).logps
    elif fault == "other row":
        stored[[1, 3]] = stored[[3, 1]]
    else:
        stored[1, 0] = math.nan
    names = [pair.name for pair in pairs]
    with pytest.raises(InvariantError) as caught:
        check_reference_agrees(policy.logps, stored, policy.num_tokens, names, rounding=least_rounding(torch.float32))
    said = str(caught.value)
    assert said.startswith("reference log-probs: the policy has the reference's weights, but not its log-probs: pairs")
    count = {"other model": 12, "other row": 4, "nan": 1}[fault]
    assert f"({count} of 12 differ); usually they were computed by another model, with adapters on" in said
    if fault == "nan":
        assert f"pairs.jsonl row 2 has policy {float(policy.logps[1, 0]):.6f}, reference nan" in said


# Layouts and leaks


@pytest.mark.parametrize("name", of_each_kind(name for name in TINY if not TINY[name].stateful))
def test_supported_models_pass_both_layout_checks(name):
    scorer = make_scorer(name)
    sequences, names = sequences_of(make_pairs(3))
    check_layouts_agree(scorer, sequences, names, rounding=least_rounding(torch.float32))
    check_no_leak(scorer, sequences, names, within=least_rounding(torch.float32) if name == "mixtral" else None)


def test_leak_is_seen_by_both_layout_checks(leak):
    scorer = make_scorer()
    sequences, names = sequences_of(make_pairs(3))
    with pytest.raises(InvariantError) as caught:
        check_layouts_agree(scorer, sequences, names, rounding=least_rounding(torch.float32))
    assert str(caught.value).startswith(
        "layout of sequences: packed with others a sequence has other log-probs than alone: pairs.jsonl row "
    )
    assert "usually attention does not keep sequences apart" in str(caught.value)
    with pytest.raises(InvariantError) as caught:
        check_no_leak(scorer, sequences, names)
    assert str(caught.value).startswith(
        "layout of sequences: changing tokens of pairs.jsonl row 1 changed the log-prob of pairs.jsonl row 1 "
    )
    assert "(5 of 6 sequences are affected); the attention lets sequences of a micro-batch see" in str(caught.value)


def test_a_glance_at_the_future_is_a_leak_too():
    class Peeking(nn.Module):
        """Adds to each token's log-prob a millionth of what the last token of the row is."""

        def __init__(self):
            super().__init__()
            self.inner = make_scorer()

        def forward(self, forest):
            scores = self.inner(forest)
            return scores._replace(logps=scores.logps + 1e-6 * forest.ids[-1])

    sequences, names = sequences_of(make_pairs(2))
    with pytest.raises(InvariantError, match=r"changing tokens of pairs\.jsonl row 2 changed"):
        check_no_leak(Peeking(), sequences, names)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda forest: {"position": torch.arange(forest.num_tokens)},  # positions run on
        lambda forest: {"edge_source": (forest.edge_source - 1).clamp(min=0)},  # predictions from one token before
        lambda forest: {"member_sequence": (forest.member_sequence + 1) % forest.num_sequences},
    ],
    ids=["position", "edge", "owner"],
)
def test_a_packing_fault_is_seen(spoil):
    scorer = make_scorer()
    sequences, names = sequences_of(make_pairs(3))

    def faulty(forest):
        return scorer(dataclasses.replace(forest, **spoil(forest)) if forest.num_sequences > 1 else forest)

    with pytest.raises(InvariantError, match=r"has packed -\d+\.\d+, alone -\d+\.\d+, where rounding explains"):
        check_layouts_agree(faulty, sequences, names, rounding=least_rounding(torch.float32))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda ids, position, reach: (ids, np.arange(5), reach), "that of b has positions 0 to 4, not 0 to 3"),
        (lambda ids, position, reach: (ids, position, reach.clip(max=4)), "that of b sees 0 tokens, which are not its"),
        (lambda ids, position, reach: (ids + 1, position, reach), "that of a sees 3 tokens, which are not its own 3"),
    ],
    ids=["positions run on", "nothing reaches the last token", "other tokens"],
)
def test_a_fault_of_the_layout_is_seen_whatever_rounding_allows(monkeypatch, spoil, said):
    """Two answers behind one prompt, 5 6 | 7 and 5 6 | 8 9, in the five places 5 6 7 8 9."""
    sequences = [completion_scored([5, 6], [7]), completion_scored([5, 6], [8, 9])]
    plain = forest._token_vectors

    def spoilt(*given):
        *vectors, parent = plain(*given)
        return *spoil(*vectors), parent

    scorer, anything = make_scorer(), least_rounding(torch.float32)._replace(per_token=1e9)
    check_layouts_agree(scorer, sequences, ["a", "b"], rounding=anything)
    monkeypatch.setattr(forest, "_token_vectors", spoilt)
    with pytest.raises(InvariantError, match=said):
        check_layouts_agree(scorer, sequences, ["a", "b"], rounding=anything)


def test_every_sequence_with_tokens_of_its_own_is_changed():
    seen = []
    scorer = make_scorer()

    def recording(forest):
        seen.append(forest)
        return scorer(forest)

    sequences = [
        completion_scored([5, 6], [7, 8]),
        completion_scored([5, 6], [7, 9]),
        completion_scored([5], [6, 7]),  # inside the others
        all_scored([5, 6, 7, 8]),  # the first one's ids
    ]
    check_no_leak(recording, sequences, ["a", "b", "c", "d"])
    first, *changed = seen
    differing = [torch.nonzero(forest.ids != first.ids).flatten().tolist() for forest in changed]
    assert differing == [[3], [4], [3]]
    assert all(torch.equal(forest.reach, first.reach) for forest in changed)
    assert all(set(forest.ids.tolist()) <= {5, 6, 7, 8, 9} for forest in changed)


def test_one_sequence_alone_has_nothing_to_leak_to():
    check_no_leak(make_scorer(), [all_scored([5, 6, 7])], ["a"])


def test_probes_leave_mode_and_gradients_alone():
    scorer = make_scorer()
    scorer.train()
    sequences, names = sequences_of(make_pairs(1))
    check_layouts_agree(scorer, sequences, names, rounding=least_rounding(torch.float32))
    assert scorer.training
    scorer(build_forest(sequences)).logps.sum().backward()


def test_tolerance_grows_with_the_root_of_the_length():
    tolerance = least_rounding(torch.float32).tolerance(torch.tensor([0, 1, 100]))
    torch.testing.assert_close(tolerance, torch.tensor([6e-6, 6e-6, 6e-5], dtype=torch.float64))
