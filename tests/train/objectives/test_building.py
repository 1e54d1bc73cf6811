"""Objectives from plain values: what is refused, and in which words."""

import pytest

from zephyr.errors import RecipeError
from zephyr.train.objectives import OBJECTIVES, build_objective
from zephyr.train.objectives.dpo import Dpo
from zephyr.train.objectives.options import OneOf, Range


def message(name, options):
    with pytest.raises(RecipeError) as caught:
        build_objective(name, options)
    return str(caught.value)


def test_table_holds_every_objective_under_its_name():
    assert {name: kind.name for name, kind in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}
    assert set(OBJECTIVES) == {"sft", "dpo", "simpo", "cpo", "kto", "orpo", "listwise"}


def test_plain_values_make_an_objective():
    assert build_objective("dpo", {"beta": 0.1}) == Dpo(beta=0.1, loss_type="sigmoid")


def test_unknown_names_get_the_nearest_one():
    assert message("dop", {}) == "objective: there is none named 'dop'; did you mean 'dpo'?"
    assert message("ipo", {}) == "objective: 'ipo' is a loss of dpo; name dpo and give it loss_type ipo"
    assert "has no choice 'sigmoyd', did you mean 'sigmoid'?" in message("dpo", {"beta": 1, "loss_type": "sigmoyd"})


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("dpo", {}, "beta is missing"),
        ("dpo", {"beta": -0.1}, "beta must be a finite number above 0, got -0.1"),
        ("dpo", {"beta": 0}, "beta must be a finite number above 0, got 0"),
        ("dpo", {"beta": float("nan")}, "beta must be a finite number above 0, got nan"),
        ("dpo", {"beta": float("inf")}, "beta must be a finite number above 0, got inf"),
        ("dpo", {"beta": "5e-1"}, "beta must be a finite number above 0, got '5e-1'"),
        ("dpo", {"beta": True}, "beta must be a finite number above 0, got True"),
        ("dpo", {"beta": None}, "beta must be a finite number above 0, got None"),
        (
            "dpo",
            {"beta": 1, "label_smoothing": 0.5},
            "must be a finite number at least 0 and below 0.5, got 0.5",
        ),
        (
            "dpo",
            {"beta": 1, "ld_alpha": 1.5},
            "ld_alpha must be a finite number at least 0 and at most 1, got 1.5",
        ),
        ("dpo", {"beta": 1, "rpo_alpha": -1}, "rpo_alpha must be a finite number at least 0, got -1"),
        ("dpo", {"beta": 1, "reference_sync_steps": 1.5}, "must be a whole number at least 1, got 1.5"),
        (
            "dpo",
            {"beta": 1, "lable_smoothing": 0.1},
            "no option 'lable_smoothing', did you mean 'label_smoothing'?",
        ),
        ("orpo", {"beta": 1, "nll_on_prompt": "yes"}, "nll_on_prompt must be true or false, got 'yes'"),
        ("orpo", {"beta": 1, "cpo_alpha": 1.0}, "it has no option 'cpo_alpha'"),
        ("sft", {"beta": 1}, "it has no option 'beta'"),
        (
            "listwise",
            {"beta": 1, "num_completions": 1},
            "num_completions must be a whole number at least 2, got 1",
        ),
    ],
)
def test_wrong_options_are_named(name, options, fault):
    assert message(name, options).startswith(f"objective {name}: ")
    assert fault in message(name, options)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"loss_type": "hinge", "label_smoothing": 0.1},
            "label_smoothing does not belong to loss_type hinge, got 0.1",
        ),
        ({"discopop_tau": 0.1}, "discopop_tau does not belong to loss_type sigmoid, got 0.1"),
        ({"loss_type": "aot", "bco_delta": 0.0}, "bco_delta does not belong to loss_type aot, got 0.0"),
        (
            {"loss_type": "ipo", "f_divergence": "js_divergence"},
            "f_divergence does not belong to loss_type ipo",
        ),
        (
            {"loss_type": "exo_pair", "label_smoothing": 0},
            "label_smoothing must be above 0 for loss_type exo_pair",
        ),
        ({"f_divergence": "alpha_divergence"}, "f_alpha and f_divergence alpha_divergence need each other"),
        ({"f_alpha": 0.5}, "f_alpha and f_divergence alpha_divergence need each other, got 0.5 and None"),
    ],
)
def test_options_of_another_loss_are_refused(options, fault):
    assert fault in message("dpo", {"beta": 0.1} | options)


def test_all_problems_come_at_once():
    found = message("simpo", {"beta": -1, "gama": 1})
    expected = (
        "objective simpo: it has no option 'gama', known are beta, gamma_beta_ratio, loss_type, sft_weight; "
        "gamma_beta_ratio is missing; beta must be a finite number above 0, got -1; "
        "it takes beta, gamma_beta_ratio, loss_type, sft_weight"
    )
    assert found == expected


def test_direct_construction_is_checked_too():
    with pytest.raises(RecipeError, match=r"^objective dpo: beta must be a finite number above 0, got -1; mend"):
        Dpo(beta=-1)


def test_the_reference_moves_only_if_told():
    fixed, moving = Dpo(beta=0.1), Dpo(beta=0.1, reference_sync_steps=512)
    assert (fixed.reference_sync_steps, moving.reference_sync_steps, moving.reference_mixup) == (
        None,
        512,
        0.6,
    )
    assert all(kind.reference_sync_steps is None for kind in OBJECTIVES.values())


def test_ranges_and_names_say_what_they_hold():
    assert Range().problem(-3) is None
    assert Range(whole=True).problem(3) is None
    assert Range(whole=True, at_least=1).problem(True) == "must be a whole number at least 1, got True"
    assert OneOf(("one", "two")).problem("two") is None
