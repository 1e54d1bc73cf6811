"""Rows that teach nothing, counted by their tokens."""

import numpy as np
import pytest

from zephyr.data.tokenize import learnable
from zephyr.data.tokenize.learnable import Learnable
from zephyr.errors import DataError


def ids(*tokens):
    return np.array(tokens, np.int64)


def counted(*rows):
    """Counts of rows of preference training: a prompt, completions and ratings each."""
    found = Learnable()
    for number, (prompt, completions, ratings) in enumerate(rows, 1):
        found.add_preference(f"d row {number}", ids(*prompt), [ids(*one) for one in completions], ratings)
    return found


def test_a_dialogue_without_a_learned_token_has_no_gradient():
    found = Learnable()
    for name, num_learned in (("a", 3), ("b", 0), ("c", 1), ("d", 0)):
        found.add_dialogue(name, num_learned)
    assert found.counts() == {"no token is learned": 2}
    assert found.lines() == ["no token is learned: 2 of 4 rows; b"]
    found.check()


def test_pairs_of_equal_tokens_are_counted_and_refused_if_there_are_no_others():
    same = ([1, 2], ([5, 6], [5, 6]), (1.0, 0.0))
    found = counted(same, ([1, 2], ([5, 6], [5, 7]), (1.0, 0.0)), same)
    assert found.counts() == {"the answers are the same tokens": 2}
    found.check()
    with pytest.raises(DataError) as caught:
        counted(same, same).check()
    assert str(caught.value) == (
        "training rows: none of the 2 has a gradient, because the answers are the same tokens (d row 1, d row 2); "
        "give rows that differ within data.max_length, or raise it"
    )


def test_a_list_has_no_gradient_only_if_all_its_answers_are_equal():
    three = (3.0, 2.0, 1.0)
    found = counted(([1], ([5], [5], [6]), three), ([1], ([5], [5], [5]), three))
    assert found.counts() == {"the answers are the same tokens": 1}


def test_pairs_that_contradict_an_earlier_one_are_counted():
    ratings = (1.0, 0.0)
    found = counted(
        ([1, 2], ([5], [6]), ratings),
        ([1, 2], ([6], [5]), ratings),
        ([1, 2], ([5], [6]), ratings),  # by now both orders are there
        ([1], ([2, 6], [5]), ratings),  # the same tokens, cut elsewhere
        ([1, 3], ([6], [5]), ratings),
    )
    assert found.counts() == {"another row prefers the other answer": 2}
    assert found.lines() == ["another row prefers the other answer: 2 of 5 rows; d row 2"]


def test_only_so_many_pairs_are_kept_to_compare_with(monkeypatch):
    monkeypatch.setattr(learnable, "COMPARED_PAIRS", 1)
    rows = [([1], ([5], [6]), (1.0, 0.0)), ([2], ([5], [6]), (1.0, 0.0))]
    reverse = [(prompt, (worse, better), ratings) for prompt, (better, worse), ratings in rows]
    assert counted(*rows, *reverse).counts() == {"another row prefers the other answer": 1}


@pytest.mark.parametrize(
    ("ratings", "counts"),
    [
        ([1.0, 1.0, 1.0], {"all labels are true": 3}),
        ([0.0, 0.0], {"all labels are false": 2}),
        ([1.0, 0.0, 0.0], {}),
        ([0.0], {}),
    ],
)
def test_labels_of_one_kind_are_counted(ratings, counts):
    assert counted(*(([1], ([5],), (rating,)) for rating in ratings)).counts() == counts
