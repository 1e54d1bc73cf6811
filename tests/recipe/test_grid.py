"""The combinations of a sweep: all values of all settings, and what is refused before anything runs."""

import pytest

from zephyr.errors import RecipeError
from zephyr.recipe.grid import read_grid


def test_every_value_meets_every_other_and_the_last_setting_changes_fastest():
    found = read_grid(["align.objective.beta=0.01,0.1", "seed=1,2,3", "sft.train.max_steps=5"])
    assert [one.label for one in found] == [f"beta={beta}, seed={seed}" for beta in (0.01, 0.1) for seed in (1, 2, 3)]
    assert [(one.path, one.value) for one in found[4].overrides] == [
        ("align.objective.beta", 0.1),
        ("seed", 2),
        ("sft.train.max_steps", 5),
    ]
    assert found[4].folder_name == "beta=0.1,seed=2"


def test_commas_in_brackets_and_quotes_separate_no_values():
    found = read_grid(["train.betas=[0.9, 0.95],[0.9, 0.99]", "description='a, b'", "x={a: 1, b: 2}"])
    assert [one.swept for one in found] == [{"betas": [0.9, 0.95]}, {"betas": [0.9, 0.99]}]
    assert [one.value for one in found[0].overrides[1:]] == ["a, b", {"a": 1, "b": 2}]
    assert [one.swept["name"] for one in read_grid(["name_or_path.name=it's,that's"])] == ["it's", "that's"]


def test_two_settings_of_one_last_word_are_told_apart():
    (first, *_) = read_grid(["sft.train.learning_rate=1,2", "align.train.learning_rate=3,4"])
    assert first.label == "sft.train.learning_rate=1, align.train.learning_rate=3"


def test_folders_of_values_that_are_no_names_of_files_differ():
    names = [one.folder_name for one in read_grid(["sft.start=../a,.._a", f"x={'y' * 99},{'y' * 98}"])]
    assert len(set(names)) == 4
    assert all("/" not in name and len(name) < 90 for name in names)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["beta=0.1"], "sweep: no setting has several values; write align.objective.beta=0.01,0.05,0.1"),
        (["beta=0.1,0.10"], "beta: has the value 0.1 twice; give each value once"),
        (["beta=0.1,"], "beta: has an empty value in '0.1,'; write null for no value"),
        (["beta=1,2", "beta=3"], "beta: is given twice; give all values at once"),
        (["name=a,b"], "name: cannot be swept: a sweep is in one run folder; give it one value"),
        (["beta"], "sweep: 'beta' is not key=value,value; write align.objective.beta=0.01,0.05,0.1"),
        (["a..b=1,2"], "overrides: 'a..b=1' is not key=value; 'a..b=2' is not key=value"),
    ],
)  # fmt: skip
def test_what_is_refused(given, said):
    with pytest.raises(RecipeError) as caught:
        read_grid(given)
    assert said in str(caught.value)
