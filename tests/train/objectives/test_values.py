"""Each objective on numbers written out by hand: its layout, its loss over a global batch, its metrics."""

import math

import numpy as np
import pytest
import torch

from tests.train.objectives.tables import dialogue, examples_for, means, pair, ranking, rated, table
from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Dialogue
from zephyr.errors import DataError
from zephyr.train.objectives.base import Totals

LN2 = math.log(2)
ONE_PAIR = {"logps": [[-50, -60]], "num_tokens": [[20, 30]], "ref_logps": [[-52, -55]]}


def scored_ids(sequence):
    return sequence.ids[sequence.scored].tolist()


def loss_of(name, options, scored, num_tokens):
    return make_objective(name, options).loss(scored, Totals(len(scored.logps), num_tokens)).item()


def metrics_of(name, options, scored):
    return means(make_objective(name, options).metrics(scored))


def test_sft_is_the_mean_over_the_tokens_of_the_global_batch():
    objective = make_objective("sft", {})
    (sequence,) = objective.sequences(dialogue(num=6, num_scored=4))
    assert scored_ids(sequence) == [3, 4, 5, 6]
    assert objective.totals([dialogue(6, 4), dialogue(9, 1)]) == Totals(2, (5,))
    half = table([[math.log(0.5 * 0.25)]], [[2]])
    assert loss_of("sft", {}, half, (3,)) + -math.log(0.8) / 3 == pytest.approx(0.767528, abs=5e-7)
    assert metrics_of("sft", {}, half) == pytest.approx({"nll_loss": -math.log(0.125) / 2})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"beta": 0.1}, 0.403186),
        ({"beta": 0.1, "label_smoothing": 0.1}, 0.473186),
        ({"beta": 0.1, "loss_type": "robust", "label_smoothing": 0.1}, 0.315686),
        ({"beta": 0.1, "loss_type": "ipo"}, 22.404444),
        ({"beta": 0.1, "loss_type": "ipo_sum"}, 4.0),
        ({"beta": 0.1, "loss_type": "sigmoid_norm"}, 0.679903),
        ({"beta": 0.1, "loss_type": "exo_pair"}, 1.657292),
        ({"beta": 0.1, "loss_type": "discopop"}, 0.496585),
        ({"beta": 0.1, "loss_type": "bco_pair", "bco_delta": 0}, 1.072216),
        ({"beta": 0.1, "loss_type": "bco_pair"}, 2 * 0.533382),
        ({"beta": 0.1, "loss_type": "kto_pair"}, 0.390989),
        ({"beta": 0.1, "rpo_alpha": 0.5}, 0.403186 + 0.5 * 50 / 20),
        # Of sums and of means alike; rpo_alpha stands for the third loss of MPO, arXiv 2411.10442.
        ({"beta": 0.1, "loss_type": {"sigmoid": 0.8, "ipo": 0.2}}, 0.8 * 0.403186 + 0.2 * 22.404444),
        ({"beta": 0.1, "loss_type": {"sigmoid": 0.8, "bco_pair": 0.2}, "rpo_alpha": 1.0},
         0.8 * 0.403186 + 0.2 * 2 * 0.533382 + 50 / 20),
        # s(0.7) (log s(0.7) - log 0.9) + s(-0.7) (log s(-0.7) - log 0.1) = 0.198972.
        ({"beta": 0.1, "loss_type": {"sigmoid": 2.0, "exo_pair": 1.0}, "label_smoothing": 0.1},
         2 * 0.473186 + 0.198972),
        ({"beta": 0.1, "f_divergence": "reverse_kl"}, 0.403186),
        ({"beta": 0.1, "f_divergence": "alpha_divergence", "f_alpha": 1}, 0.403186),
    ],
)  # fmt: skip
def test_dpo_on_the_hand_worked_pair(options, expected):
    assert loss_of("dpo", options, table(**ONE_PAIR), (20, 30)) == pytest.approx(expected, abs=1e-6)


def test_js_divergence_by_its_formula():
    softplus = [math.log1p(math.exp(ratio)) for ratio in (2, -5)]
    margin = 7 - (softplus[0] - softplus[1])
    expected = math.log1p(math.exp(-0.1 * margin))
    options = {"beta": 0.1, "f_divergence": "js_divergence"}
    assert loss_of("dpo", options, table(**ONE_PAIR), (20, 30)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("beta", "rewards"),
    [(0.1, (0.2, -0.5, 0.7)), (0.05, (0.1, -0.25, 0.35)), (0.01, (0.02, -0.05, 0.07)), (0.5, (1, -2.5, 3.5))],
)
def test_dpo_metrics(beta, rewards):
    scored = table(**ONE_PAIR, mean_logits=[[-2.5, -2.75]])
    assert metrics_of("dpo", {"beta": beta}, scored) == pytest.approx(
        {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": rewards[2],
            "rewards/accuracies": 1.0,
            "logps/chosen": -50.0,
            "logps/rejected": -60.0,
            "logits/chosen": -2.5,
            "logits/rejected": -2.75,
        }
    )


def test_ties_are_misses_and_logits_are_means_over_tokens():
    scored = table(
        [[-1, -1], [-1, -2]],
        [[1, 2], [3, 2]],
        ref_logps=[[-1, -1], [-1, -1]],
        mean_logits=[[4.0, 1.0], [8.0, 2.0]],
    )
    found = metrics_of("dpo", {"beta": 1.0, "rpo_alpha": 1.0}, scored)
    assert found["rewards/accuracies"] == 0.5
    assert found["logits/chosen"] == 7.0
    assert found["logits/rejected"] == 1.5
    assert found["nll_loss"] == 0.5


def test_ld_dpo_weighs_the_longer_tail():
    objective = make_objective("dpo", {"beta": 0.1, "ld_alpha": 0.5})
    assert objective.columns == ("chosen", "rejected", "chosen_head", "rejected_head")
    sequences = objective.sequences(pair(num_chosen=3, num_rejected=2))
    assert [scored_ids(one) for one in sequences] == [[50, 51, 52], [70, 71], [50, 51], [70, 71]]
    # Half of what lies between head and whole: -45 and -60, so h = (-45 + 48) - (-60 + 55) = 8.
    scored = table([[-50, -60, -40, -60]], [[30, 20, 20, 20]], ref_logps=[[-52, -55, -44, -55]])
    expected = math.log1p(math.exp(-0.8))
    assert loss_of("dpo", {"beta": 0.1, "ld_alpha": 0.5}, scored, (30, 20, 20, 20)) == pytest.approx(expected)
    found = metrics_of("dpo", {"beta": 0.1, "ld_alpha": 0.5}, scored)
    assert found["logps/chosen"] == -45.0
    assert found["rewards/margins"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8}, 1.313262),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8, "loss_type": "hinge"}, 2.0),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8, "sft_weight": 0.1}, 1.313262 + 0.05),
        # -0.532594 + 0.885611 = 0.353017; -log s(2 (0.353017 - 0.8))
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8, "alpha": 0.25}, 1.236867),
        ("orpo", {"beta": 0.05, "nll_on_prompt": False}, 0.5 + 0.05 * 0.424833),
    ],
)
def test_reference_free_on_mean_logps(name, options, expected):
    # Means a token -0.5 and -0.8; the chosen tokens' NLL is then 0.5.
    scored = table([[-10, -24]], [[20, 30]])
    assert loss_of(name, options, scored, (20, 30)) == pytest.approx(expected, abs=1e-6)


def test_simpo_reports_means():
    found = metrics_of("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.8}, table([[-10, -24]], [[20, 30]]))
    assert (found["rewards/chosen"], found["rewards/rejected"]) == pytest.approx((-1.0, -1.6))
    assert (found["logps/chosen"], found["logps/rejected"]) == pytest.approx((-0.5, -0.8))
    assert "nll_loss" not in found


def test_cpo_with_ipo_takes_means():
    scored = table([[-10, -24]], [[20, 30]])
    options = {"beta": 2.0, "cpo_alpha": 0.0, "loss_type": "ipo"}
    assert loss_of("cpo", options, scored, (20, 30)) == pytest.approx((0.3 - 0.25) ** 2)
    assert metrics_of("cpo", options, scored)["logps/chosen"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("options", "preference"),
    # a_c - a_r = -2.5 + 2, and -log s(0.1 (-0.5 - 1))
    [({}, 0.313262), ({"loss_type": "hinge"}, 0.0), ({"loss_type": "tpo_l", "tpo_l_gamma": 0.1}, 0.770957)],
)
def test_tpo_imitates_the_best_and_prefers_the_second_to_the_last(options, preference):
    objective = make_objective("tpo", {})
    chosen, rejected, best = objective.sequences(ranking([4.0, 3.0, 2.0, 1.0]))
    assert [scored_ids(one)[0] for one in (best, chosen, rejected)] == [50, 60, 80]
    with pytest.raises(DataError, match="objective tpo needs 3 or more completions a prompt, got 2"):
        objective.sequences(pair())
    scored = table([[-50, -60, -30]], [[20, 30, 10]])
    found = loss_of("tpo", {"beta": 0.1, "tpo_alpha": 0.5, **options}, scored, (20, 30, 10))
    assert found == pytest.approx(preference + 0.5 * 3, abs=5e-7)
    assert metrics_of("tpo", options, scored)["nll_loss"] == pytest.approx(3)


def test_best_of_n_is_sft_on_the_best_completion():
    objective = make_objective("best_of_n", {})
    ranked = [ranking([4.0, 3.0, 2.0, 1.0]), ranking([2.0])]
    as_dialogues = [
        Dialogue(one.name, (both := np.concatenate([one.prompt, one.completions[0]])), np.arange(len(both)) >= 4)
        for one in ranked
    ]
    imitation = make_objective("sft", {})
    for example, same in zip(ranked, as_dialogues, strict=True):
        ((ids, scored, *_),), ((their_ids, their_scored, *_),) = objective.sequences(example), imitation.sequences(same)
        assert ids.tolist() == their_ids.tolist()
        assert scored.tolist() == their_scored.tolist()
    assert objective.totals(ranked) == imitation.totals(as_dialogues)
    half = table([[math.log(0.5 * 0.25)]], [[2]])
    assert loss_of("best_of_n", {}, half, (3,)) == pytest.approx(-math.log(0.125) / 3)
    assert metrics_of("best_of_n", {}, half) == pytest.approx({"nll_loss": -math.log(0.125) / 2})


def test_wpo_weighs_pairs_by_their_mean_agreement():
    scored = table(**ONE_PAIR)._replace(collisions=torch.tensor([[-40.0, -45.0]], dtype=torch.float64))
    # exp((-50 + 40) / 20 + (-60 + 45) / 30) = 1/e
    assert loss_of("dpo", {"use_weighting": True}, scored, (20, 30)) == pytest.approx(0.403186 / math.e, abs=5e-7)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    # h = f'(2) / 20 - f'(-5) / 30: log 2 + log s(d) are 0.566219 and -4.313568, 1 - e^-d 0.864665 and -147.413159.
    [("js_divergence", (0.172097 - 5) ** 2), ("forward_kl", (4.957005 - 5) ** 2)],
)
def test_divergences_of_means_are_of_sums_first(divergence, expected):
    options = {"beta": 0.1, "loss_type": "ipo", "f_divergence": divergence}
    assert loss_of("dpo", options, table(**ONE_PAIR), (20, 30)) == pytest.approx(expected, abs=2e-5)


def test_cpo_adds_nll_and_reports_sums():
    scored = table([[-50, -60]], [[20, 30]])
    assert loss_of("cpo", {"beta": 0.1, "cpo_alpha": 0.0}, scored, (20, 30)) == pytest.approx(0.313262, abs=5e-7)
    # An NLL of 0.6 a token is -50 over 83.33 tokens; over 100 tokens of the global batch it is 0.5.
    assert loss_of("cpo", {"beta": 0.1, "cpo_alpha": 1.0}, scored, (100, 30)) == pytest.approx(0.813262, abs=5e-7)
    found = metrics_of("cpo", {"beta": 0.1, "cpo_alpha": 1.0}, scored)
    assert (found["rewards/chosen"], found["logps/rejected"], found["nll_loss"]) == pytest.approx((-5, -60, 2.5))


@pytest.mark.parametrize(("weight", "expected"), [(0.05, 0.621242), (0.1, 0.642483), (0.25, 0.706208)])
def test_orpo_on_the_hand_worked_pair(weight, expected):
    # 24 tokens of prompt and completion, 40 in the global batch, at 24/40 nats: NLL 0.6.
    scored = table([[-10, -24, -24]], [[20, 30, 24]])
    assert loss_of("orpo", {"beta": weight}, scored, (20, 30, 40)) == pytest.approx(expected, abs=5e-7)
    found = metrics_of("orpo", {"beta": weight}, scored)
    assert found == pytest.approx(
        {
            "rewards/chosen": weight * -0.5,
            "rewards/rejected": weight * -0.8,
            "rewards/margins": weight * 0.3,
            "rewards/accuracies": 1.0,
            "logps/chosen": -0.5,
            "logps/rejected": -0.8,
            "logits/chosen": 0.0,
            "logits/rejected": 0.0,
            "nll_loss": 1.0,
            "log_odds_ratio": -0.424833,
            "log_odds_chosen": 0.636134,
        },
        abs=5e-7,
    )


def test_orpo_counts_the_prompt_in_its_nll_unless_told():
    sequences = make_objective("orpo", {"beta": 0.1}).sequences(pair())
    assert [scored_ids(one) for one in sequences] == [[50, 51, 52], [70, 71], [2, 3, 4, 50, 51, 52]]
    assert (sequences[0].ids == sequences[2].ids).all()
    alone = make_objective("orpo", {"beta": 0.1, "nll_on_prompt": False})
    assert [scored_ids(one) for one in alone.sequences(pair())] == [[50, 51, 52], [70, 71]]


def test_kto_on_the_hand_worked_numbers():
    # Ratios 2 (desirable) and -5; the mismatched ones are 4 and -1, so z = 1.5.
    scored = table(
        [[-50, -6], [-60, -11]],
        [[20, 5], [30, 5]],
        ref_logps=[[-52, -10], [-55, -10]],
        labels=[[1, 0], [0, 0]],
        mean_logits=[[1.0, 9.0], [2.0, 9.0]],
    )
    assert loss_of("kto", {"beta": 0.1}, scored, (50, 10)) == pytest.approx(0.415246, abs=1e-6)
    weighted = {"beta": 0.1, "desirable_weight": 2.0, "undesirable_weight": 3.0}
    expected = (2 * 0.487503 + 3 * 0.342990) / 2
    assert loss_of("kto", weighted, scored, (50, 10)) == pytest.approx(expected, abs=2e-6)
    assert metrics_of("kto", {"beta": 0.1}, scored) == pytest.approx(
        {
            "kl": 1.5,
            "rewards/chosen": 0.2,
            "rewards/rejected": -0.5,
            "rewards/margins": 0.7,
            "logps/chosen": -50.0,
            "logps/rejected": -60.0,
            "logits/chosen": 1.0,
            "logits/rejected": 2.0,
        }
    )


def test_apo_zero_unpaired_needs_no_other_answer():
    # Rewards 0.2 (desirable) and -0.5: 1 - s(0.2) and s(-0.5).
    options = {"beta": 0.1, "loss_type": "apo_zero_unpaired"}
    scored = table([[-50], [-60]], [[20], [30]], ref_logps=[[-52], [-55]], labels=[[1], [0]])
    assert loss_of("kto", options, scored, (50,)) == pytest.approx((0.450166 + 0.377541) / 2, abs=1e-6)
    objective, labelled = make_objective("kto", options), rated(1.0)
    single = labelled._replace(completions=labelled.completions[:1], ratings=(1.0,))
    (sequence,) = objective.sequences(single)
    assert scored_ids(sequence) == [50, 51, 52]
    assert (objective.columns, objective.coupled, objective.arranged([single])) == (("completion",), False, [single])
    assert set(metrics_of("kto", options, scored)) == {*objective.options.metrics}
    with pytest.raises(DataError, match="got 2"):
        objective.arranged([labelled])


def test_kto_without_undesirable_examples_has_no_margin():
    scored = table([[-50, -6]], [[20, 5]], ref_logps=[[-52, -10]], labels=[[1, 0]])
    metrics = make_objective("kto", {"beta": 0.1}).metrics(scored)
    weights = {name: metric.weight.item() for name, metric in metrics.items()}
    assert weights["rewards/chosen"] == weights["kl"] == 1.0
    assert weights["rewards/rejected"] == weights["rewards/margins"] == 0.0
    assert all(metric.total.isfinite() for metric in metrics.values())


def test_kto_takes_labels_of_zero_and_one():
    objective = make_objective("kto", {"beta": 0.1})
    assert objective.labels([rated(1.0), rated(0.0)]).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(DataError, match=r"^labels row 1: objective kto needs a rating of 1 .*, got 4\.5; map the"):
        objective.sequences(rated(4.5))


def test_listwise_lays_out_what_there_is():
    objective = make_objective("listwise", {"beta": 0.1, "num_completions": 3})
    assert objective.columns == ("rank_1", "rank_2", "rank_3")
    sequences = objective.sequences(ranking([2.0, 1.0]))
    assert [scored_ids(one) for one in sequences] == [[50, 51], [60, 61, 62], []]
    assert objective.labels([ranking([2.0, 1.0])]).tolist() == [[2.0, 1.0, 0.0]]
    with pytest.raises(DataError, match=r"^ranks row 1: objective listwise needs 2 to 3 completions a prompt, got 4"):
        objective.sequences(ranking([4.0, 3.0, 2.0, 1.0]))


def test_listwise_of_two_is_dpo_and_reports_best_and_worst():
    scored = table([[-50, -60, 0]], [[20, 30, 0]], ref_logps=[[-52, -55, 0]], labels=[[1, 0, 0]])
    options = {"beta": 0.1, "num_completions": 3}
    assert loss_of("listwise", options, scored, (20, 30, 0)) == pytest.approx(0.403186, abs=5e-7)
    found = metrics_of("listwise", options, scored)
    assert found["rewards/margins"] == pytest.approx(0.7)
    assert found["logps/rejected"] == -60.0


def test_every_pair_counts_alike_whatever_its_length():
    objective = make_objective("dpo", {"beta": 0.1})
    scored = table([[-50, -60], [-1, -1]], [[20, 30], [1, 1]], ref_logps=[[-52, -55], [-1, -1]])
    totals = objective.totals(examples_for(objective, 2))
    assert objective.loss(scored, totals).item() == pytest.approx((0.403186 + LN2) / 2, abs=5e-7)
