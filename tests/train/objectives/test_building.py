"""Objectives from sections of the recipe: which there are, and what a section refuses."""

from typing import get_args

import pytest
from pydantic import ValidationError

from tests.train.objectives.tables import pair, ranking
from tests.train.sections import SECTIONS
from zephyr.recipe.objective_section import (
    AlignObjective,
    CpoObjective,
    DpoObjective,
    ListwiseObjective,
    SimpoObjective,
    TpoObjective,
)
from zephyr.train.objectives import OBJECTIVES, build_objective
from zephyr.train.objectives.table import Dpo


def message(**options):
    with pytest.raises(ValidationError) as caught:
        DpoObjective(**options)
    (error,) = caught.value.errors()
    return f"{error['loc'][0]}: {error['msg']}"


def test_table_holds_every_section_under_its_name():
    assert {name: kind.name for name, kind in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}
    # One's own comes from a file.
    assert {*OBJECTIVES, "custom"} == set(SECTIONS)
    of_align = {kind.model_fields["name"].default for kind in get_args(get_args(AlignObjective)[0])}
    assert of_align == set(SECTIONS) - {"sft", "bradley_terry"}


@pytest.mark.parametrize(
    ("section", "loss_type"), [(SimpoObjective, "hinge"), (CpoObjective, "ipo"), (TpoObjective, "ipo")]
)
def test_labels_are_smoothed_in_the_sigmoid_alone(section, loss_type):
    with pytest.raises(ValidationError, match=f"label_smoothing does not belong to loss_type {loss_type}"):
        section(loss_type=loss_type, label_smoothing=0.1)


def test_a_section_makes_an_objective():
    section = DpoObjective(beta=0.1)
    assert build_objective(section) == Dpo(section)
    assert (section.loss_type, section.reference_sync_steps, section.reference_mixup) == ("sigmoid", None, 0.6)


def test_listwise_takes_as_many_completions_as_the_data_has():
    examples = [ranking([2.0, 1.0]), ranking([3.0, 2.0, 1.0]), pair()]
    assert build_objective(ListwiseObjective(), examples).columns == ("rank_1", "rank_2", "rank_3")
    assert build_objective(ListwiseObjective(num_completions=4), examples).options.num_completions == 4
    assert len(build_objective(ListwiseObjective()).columns) == 2


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"loss_type": "hinge", "label_smoothing": 0.1},
            "label_smoothing: Value error, does not belong to loss_type hinge, got 0.1: leave it out, or choose",
        ),
        (
            {"loss_type": {"sigmoid": 1.0, "aot": 1.0}, "use_weighting": True},
            "use_weighting: Value error, does not go with loss_type aot",
        ),
        ({"discopop_tau": 0.1}, "discopop_tau: Value error, does not belong to loss_type sigmoid, got 0.1"),
        ({"loss_type": "aot", "bco_delta": 0.0}, "bco_delta: Value error, does not belong to loss_type aot, got 0.0"),
        (
            {"loss_type": "aot", "f_divergence": "js_divergence"},
            "f_divergence: Value error, does not belong to loss_type aot",
        ),
        ({"loss_type": "exo_pair", "label_smoothing": 0}, "label_smoothing: Value error, must be above 0 for exo_pair"),
        ({"f_divergence": "alpha_divergence"}, "f_alpha: Value error, goes with f_divergence alpha_divergence alone"),
        ({"f_alpha": 0.5}, "f_alpha: Value error, goes with f_divergence alpha_divergence alone, got 0.5 and None"),
        ({"beta": float("nan")}, "beta: Input should be a finite number"),
        ({"lable_smoothing": 0.1}, "lable_smoothing: Extra inputs are not permitted"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, fault):
    assert message(**options).startswith(fault)


@pytest.mark.parametrize(
    ("section", "number", "problem"),
    [
        (SECTIONS["dpo"](), 2, None),
        (SECTIONS["dpo"](), 3, "objective dpo needs 2 completions a prompt, got 3"),
        (SECTIONS["kto"](), 2, "objective kto needs 1 completions a prompt, got 2"),
        (ListwiseObjective(), 9, None),
        (ListwiseObjective(), 1, "objective listwise needs 2 or more completions a prompt, got 1"),
        (ListwiseObjective(num_completions=3), 4, "objective listwise needs 2 to 3 completions a prompt, got 4"),
    ],
)
def test_a_section_says_how_many_completions_a_prompt_may_have(section, number, problem):
    assert section.completions_problem(number) == problem
