"""Laws of the cut into micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.errors import DataError
from zephyr.trees.budget import cut_micro_batches

MAX_TOKENS = 50
SIZES = st.lists(st.integers(0, MAX_TOKENS), max_size=30)
WORLDS = st.integers(1, 5)


def loads(ranks: list[list[list[int]]], sizes: list[int]) -> list[list[int]]:
    return [[sum(sizes[index] for index in indices) for indices in rank] for rank in ranks]


@given(SIZES, WORLDS)
def test_every_example_stands_in_one_micro_batch(sizes: list[int], world_size: int) -> None:
    ranks = cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size)
    assert sorted(index for rank in ranks for indices in rank for index in indices) == list(range(len(sizes)))


@given(SIZES, WORLDS)
def test_no_micro_batch_exceeds_the_budget(sizes: list[int], world_size: int) -> None:
    ranks = cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size)
    assert all(load <= MAX_TOKENS for rank in loads(ranks, sizes) for load in rank)


@given(SIZES, WORLDS)
def test_every_rank_gets_the_same_number(sizes: list[int], world_size: int) -> None:
    ranks = cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size)
    assert len(ranks) == world_size
    assert len({len(rank) for rank in ranks}) == 1
    assert ranks[0], "a step has a micro-batch even if it has no example"


@given(SIZES, WORLDS)
def test_loads_differ_by_one_example_at_most(sizes: list[int], world_size: int) -> None:
    ranks = loads(cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size), sizes)
    largest = max(sizes, default=0)
    of_ranks = [sum(rank) for rank in ranks]
    of_micro_batches = [load for rank in ranks for load in rank]
    assert max(of_ranks) - min(of_ranks) <= largest
    assert max(of_micro_batches) - min(of_micro_batches) <= largest


@given(SIZES, WORLDS)
def test_the_number_of_micro_batches_is_within_twice_the_least(sizes: list[int], world_size: int) -> None:
    """Were a rank's last micro-batch one too many, the others would all be more than half full."""
    ranks = cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size)
    least = max(1, -(-sum(sizes) // (MAX_TOKENS * world_size)))
    assert least <= len(ranks[0]) <= 2 * least + 1


@given(SIZES, WORLDS)
def test_same_input_same_cut(sizes: list[int], world_size: int) -> None:
    first, second = (cut_micro_batches(sizes, max_tokens=MAX_TOKENS, world_size=world_size) for _ in range(2))
    assert first == second


def test_longest_first_into_the_lightest_by_hand() -> None:
    """35 tokens want three of 12: 8, 7, 6 open them, then 5 joins 6, 5 joins 7, and 4 joins 8."""
    assert cut_micro_batches([5, 8, 4, 6, 7, 5], max_tokens=12) == [[[1, 2], [4, 5], [3, 0]]]


def test_ranks_take_turns_from_both_ends() -> None:
    """Six that fill a micro-batch each: heaviest first to rank 0, then back from rank 1."""
    assert cut_micro_batches([9, 8, 7, 6, 9, 6], max_tokens=9, world_size=2) == [
        [[0], [2], [3]],
        [[4], [1], [5]],
    ]


def test_more_ranks_than_examples_gives_empty_micro_batches() -> None:
    assert cut_micro_batches([3, 4], max_tokens=10, world_size=4) == [[[1]], [[0]], [[]], [[]]]
    assert cut_micro_batches([], max_tokens=10, world_size=2) == [[[]], [[]]]


def test_example_that_fills_the_budget_fits() -> None:
    assert cut_micro_batches([10, 10], max_tokens=10) == [[[0], [1]]]


def test_example_that_cannot_fit_is_named() -> None:
    with pytest.raises(DataError) as caught:
        cut_micro_batches([3, 11, 12], max_tokens=10, names=["a.jsonl row 0", "a.jsonl row 1", "b"])
    assert str(caught.value) == (
        "a.jsonl row 1: holds 11 tokens, more than max_tokens_per_micro_batch = 10; "
        "set max_tokens_per_micro_batch to at least 11, or lower max_length"
    )


def test_example_that_cannot_fit_has_its_number_where_there_is_no_name() -> None:
    with pytest.raises(DataError, match=r"^example 1: holds 11 tokens"):
        cut_micro_batches([3, 11], max_tokens=10)
