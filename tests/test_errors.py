import pickle

import pytest

from zephyr import errors
from zephyr.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    InvariantError,
    ModelError,
    NothingToPreferError,
    Problems,
    ProblemsError,
    RecipeError,
    ResourceError,
    TeacherError,
    UnknownFormatError,
    ZephyrError,
    did_you_mean,
)

KINDS = [
    CheckpointError, DataError, DeviceError, InvariantError, ModelError, NothingToPreferError, RecipeError,
    ResourceError, TeacherError, UnknownFormatError,
]  # fmt: skip


def test_message_says_where_what_and_what_to_do():
    error = DataError("pairs.jsonl row 17", "chosen and rejected are the same text, got 'Yes.' twice", "drop the row")
    assert str(error) == ("pairs.jsonl row 17: chosen and rejected are the same text, got 'Yes.' twice; drop the row")
    assert (error.where, error.remedy) == ("pairs.jsonl row 17", "drop the row")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_caught_as_one(kind):
    with pytest.raises(ZephyrError, match=r"^a: b; c$"):
        raise kind("a", "b", "c")


def test_kinds_tested_are_all_there_are():
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert found == {*KINDS, ProblemsError, ZephyrError}


def test_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(CheckpointError("step-40", "no optimizer state", "start anew")))
    assert isinstance(error, CheckpointError)
    assert str(error) == "step-40: no optimizer state; start anew"


def gathered(*errors):
    problems = Problems()
    for error in errors:
        with problems.noted():
            raise error
    return problems


def test_a_problem_alone_is_raised_as_it_is():
    gathered().raise_any()
    alone = DataError("a", "b", "c")
    with pytest.raises(DataError) as caught:
        gathered(alone, DataError("a", "b", "c")).raise_any()
    assert caught.value is alone


def test_several_problems_are_said_together_each_once():
    with pytest.raises(ProblemsError) as caught:
        gathered(DataError("a", "b", "c"), ModelError("d", "e", "f")).raise_any()
    text = "2 problems:\n  a: b; c\n  d: e; f"
    assert str(caught.value) == text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text
    with pytest.raises(ProblemsError, match=r"^3 problems:\n  a: b; c\n  d: e; f\n  g: h; i$"):
        gathered(caught.value, DataError("g", "h", "i"), DataError("a", "b", "c")).raise_any()


def test_what_is_no_mistake_of_a_user_is_not_gathered():
    with pytest.raises(ValueError, match="ours"):
        gathered(ValueError("ours"))


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("sigmiod", "; did you mean 'sigmoid'?"),
        ("IPO", "; did you mean 'ipo'?"),
        ("zzz", "; known are hinge, ipo, sigmoid"),
    ],
)
def test_nearest_name_is_suggested_or_all_are_listed(name, tail):
    assert did_you_mean(name, ["sigmoid", "ipo", "hinge", "ipo"]) == tail


def test_capitals_of_the_known_name_are_kept():
    assert did_you_mean("adamw_torch", {"AdamW_torch"}) == "; did you mean 'AdamW_torch'?"


def test_long_lists_are_cut_and_empty_ones_said():
    many = [f"name{number:02}" for number in range(15)]
    assert did_you_mean("?", many).endswith("name10, name11 and 3 more")
    assert did_you_mean("x", []) == "; there are none to choose from"
