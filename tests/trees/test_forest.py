"""The forest equals a slow, obvious one: a set of prefixes, each of them one token."""

from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from zephyr.trees.forest import (
    Forest,
    ScoredSequence,
    all_scored,
    build_forest,
    completion_scored,
    num_unique_tokens,
)
from zephyr.trees.rule import visible

Prefix = tuple[int, ...]

# Three tokens and short sequences: most of them share prefixes, repeat each other or end inside one another.
TOKENS = st.integers(0, 2)


@st.composite
def scored_sequence(draw: st.DrawFn) -> ScoredSequence:
    ids = draw(st.lists(TOKENS, max_size=8))
    scored = [False, *draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))][: len(ids)]
    return ScoredSequence(np.array(ids, dtype=np.int64), np.array(scored, dtype=np.bool_))


@st.composite
def preference_group(draw: st.DrawFn) -> list[ScoredSequence]:
    """Completions of one prompt, which may be empty, equal, or go along with each other for a while."""
    prompt = draw(st.lists(TOKENS, max_size=5))
    completions = draw(st.lists(st.lists(TOKENS, max_size=4), max_size=4))
    return [completion_scored(prompt, completion) for completion in completions]


def some_sequences() -> st.SearchStrategy[list[ScoredSequence]]:
    groups = st.lists(preference_group(), max_size=3).map(lambda groups: list(chain.from_iterable(groups)))
    return st.one_of(st.lists(scored_sequence(), max_size=8), groups)


def with_mask(ids: list[int], scored: str) -> ScoredSequence:
    return ScoredSequence(np.array(ids, dtype=np.int64), np.array([mark == "x" for mark in scored], dtype=np.bool_))


ODD_CASES = [
    [],
    [with_mask([], "")],
    [with_mask([], ""), with_mask([1], ".")],
    [with_mask([1, 2, 0], ".xx"), with_mask([1, 2, 0], ".xx")],
    [with_mask([1, 2, 0], ".x."), with_mask([1, 2, 0], "..x"), with_mask([1, 2, 0], "...")],
    [with_mask([1, 2, 0], ".xx"), with_mask([1, 2], ".x"), with_mask([1], ".")],
    [with_mask([1], "."), with_mask([1, 2], ".x"), with_mask([1, 2, 0, 0], "..xx")],
    [with_mask([0, 1, 2, 2], "..xx"), with_mask([0, 1, 2, 0], "..xx"), with_mask([0, 1, 1], "..x")],
    [with_mask([0, 0, 0, 0], ".xxx"), with_mask([0, 0], ".x"), with_mask([0, 0, 0, 1], "...x")],
]


def with_odd_cases(test):
    for case in ODD_CASES:
        test = example(case)(test)
    return test


def prefixes_by_place(forest: Forest) -> list[Prefix]:
    """The prefix that every token of the row ends, read off ``position`` and the row alone.

    In depth-first order the parent of a token at depth d is the last token before it at depth d - 1.
    """
    prefixes: list[Prefix] = []
    last_at_depth: dict[int, Prefix] = {-1: ()}
    for token, depth in zip(forest.ids.tolist(), forest.position.tolist(), strict=True):
        prefix = (*last_at_depth[depth - 1], token)
        last_at_depth[depth] = prefix
        prefixes.append(prefix)
    return prefixes


def distinct_prefixes(sequences: list[ScoredSequence]) -> set[Prefix]:
    return {tuple(s.ids[:end].tolist()) for s in sequences for end in range(1, len(s.ids) + 1)}


def scored_pairs(sequence: ScoredSequence) -> list[tuple[Prefix, int]]:
    """The (prefix, next token) pairs that a sequence scores."""
    ids = sequence.ids.tolist()
    return [(tuple(ids[:place]), ids[place]) for place in range(len(ids)) if sequence.scored[place]]


@with_odd_cases
@given(some_sequences())
def test_every_distinct_prefix_is_one_token(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    assert len(prefixes) == len(set(prefixes)) == forest.num_tokens == num_unique_tokens(sequences)
    assert set(prefixes) == distinct_prefixes(sequences)
    assert forest.position.tolist() == [len(prefix) - 1 for prefix in prefixes]


@with_odd_cases
@given(some_sequences())
def test_a_token_sees_its_own_prefixes_and_nothing_else(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    seen = [[query[: len(key)] == key for key in prefixes] for query in prefixes]
    assert visible(forest).tolist() == seen
    in_window = [[query[: len(key)] == key and len(query) - len(key) < 2 for key in prefixes] for query in prefixes]
    assert visible(forest, window=2).tolist() == in_window


@with_odd_cases
@given(some_sequences())
def test_reach_ends_the_subtree(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    for place, prefix in enumerate(prefixes):
        below = [number for number, other in enumerate(prefixes) if other[: len(prefix)] == prefix]
        assert below == list(range(place, int(forest.reach[place])))


@with_odd_cases
@given(some_sequences())
def test_edges_are_the_distinct_scored_pairs(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    edges = [
        (prefixes[source], target)
        for source, target in zip(forest.edge_source.tolist(), forest.edge_target.tolist(), strict=True)
    ]
    assert len(edges) == len(set(edges)) == forest.num_edges
    assert set(edges) == {pair for sequence in sequences for pair in scored_pairs(sequence)}


@with_odd_cases
@given(some_sequences())
def test_every_sequence_owns_its_edges(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    owned: list[list[tuple[Prefix, int]]] = [[] for _ in sequences]
    for edge, owner in zip(forest.member_edge.tolist(), forest.member_sequence.tolist(), strict=True):
        owned[owner].append((prefixes[forest.edge_source[edge]], int(forest.edge_target[edge])))
    assert owned == [scored_pairs(sequence) for sequence in sequences]
    assert forest.member_sequence.tolist() == sorted(forest.member_sequence.tolist())
    assert forest.num_sequences == len(sequences)


@with_odd_cases
@given(some_sequences())
def test_chains_cut_the_row_into_paths_to_leaves(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    prefixes = prefixes_by_place(forest)
    end = 0
    for one in forest.chains:
        assert one.start == end < one.end
        ranges = [*one.path, (one.start, one.end)]
        places = [place for first, last in ranges for place in range(first, last)]
        assert tuple(forest.ids[places].tolist()) == prefixes[one.end - 1]
        assert one.path_length == forest.position[one.start]
        assert int(forest.reach[one.end - 1]) == one.end, "a chain ends in a leaf"
        assert all(last < first for (_, last), (first, _) in pairwise(one.path))
        end = one.end
    assert end == forest.num_tokens
    leaves = {p for p in prefixes if not any(len(o) > len(p) and o[: len(p)] == p for o in prefixes)}
    assert {prefixes[one.end - 1] for one in forest.chains} == leaves


@given(some_sequences(), st.randoms(use_true_random=False))
def test_order_and_repetition_of_sequences_change_no_token_and_no_edge(sequences, random) -> None:
    shuffled = sequences + sequences
    random.shuffle(shuffled)
    ours, theirs = build_forest(sequences), build_forest(shuffled)
    assert set(prefixes_by_place(ours)) == set(prefixes_by_place(theirs))
    assert ours.num_edges == theirs.num_edges
    assert 2 * len(ours.member_edge) == len(theirs.member_edge)


def test_layout_of_a_pair_by_hand() -> None:
    """Prompt 5 6 with 7 8 9, 7 4 and nothing: eleven tokens become six, and 7 is scored once."""
    forest = build_forest([completion_scored([5, 6], c) for c in ([7, 8, 9], [7, 4], [])])
    assert forest.ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert forest.position.tolist() == [0, 1, 2, 3, 4, 3]
    assert forest.reach.tolist() == [6, 6, 6, 5, 5, 6]
    assert forest.edge_source.tolist() == [1, 2, 3, 2]
    assert forest.edge_target.tolist() == [7, 8, 9, 4]
    assert forest.member_edge.tolist() == [0, 1, 2, 0, 3]
    assert forest.member_sequence.tolist() == [0, 0, 0, 1, 1]
    assert [tuple(one) for one in forest.chains] == [(0, 5, ()), (5, 6, ((0, 3),))]


def test_work_grows_with_the_tokens_and_not_with_their_square() -> None:
    """A comb of n sequences that fork at every step: no chain's path has more ranges than its ids."""
    sequences = [all_scored([0] * length + [1]) for length in range(1, 60)]
    forest = build_forest(sequences)
    assert forest.num_tokens == 59 + 59
    assert sum(len(one.path) for one in forest.chains) <= sum(len(s.ids) for s in sequences)


def test_same_ids_with_another_mask_cost_no_token_and_no_second_edge() -> None:
    ids = np.arange(10)
    whole, tail = all_scored(ids), ScoredSequence(ids, ids >= 6)
    forest = build_forest([whole, tail])
    assert (forest.num_tokens, forest.num_edges, len(forest.member_edge)) == (10, 9, 9 + 4)


def test_completion_scored_scores_the_completion_alone() -> None:
    assert completion_scored([1, 2], [3, 4]).scored.tolist() == [False, False, True, True]
    assert completion_scored([1, 2], []).scored.tolist() == [False, False]
    assert completion_scored([], []).scored.tolist() == []
    assert completion_scored([], [3, 4]).scored.tolist() == [False, True], "nothing precedes the first token"
    assert all_scored([3, 4, 5]).scored.tolist() == [False, True, True]


def test_scored_first_token_is_an_error_that_names_the_sequence() -> None:
    with pytest.raises(ValueError, match="sequence 1: its first token is scored"):
        build_forest([all_scored([1, 2]), with_mask([1, 2], "xx")])


@pytest.mark.parametrize(("ids", "scored"), [(3, 2), (2, 3), (0, 1)])
def test_arrays_of_two_lengths_are_an_error(ids: int, scored: int) -> None:
    with pytest.raises(ValueError, match=r"sequence 0: ids \(\d,\) and scored \(\d,\) must be equal"):
        build_forest([ScoredSequence(np.zeros(ids, dtype=np.int64), np.zeros(scored, dtype=np.bool_))])


def test_arrays_of_two_dimensions_are_an_error() -> None:
    with pytest.raises(ValueError, match="must be equal"):
        build_forest([ScoredSequence(np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.bool_))])


def test_mask_of_integers_is_an_error() -> None:
    with pytest.raises(ValueError, match="sequence 0"):
        build_forest([ScoredSequence(np.array([1, 2, 3]), np.array([0, 0, 1]))])


def test_to_moves_every_tensor_and_keeps_the_layout() -> None:
    forest = build_forest([all_scored([1, 2, 3]), all_scored([1, 2, 4])])
    forest.plans["something"] = "derived for the old device"
    moved = forest.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 8
    assert all(tensor.is_meta for tensor in tensors)
    assert (moved.num_sequences, moved.chains, moved.plans) == (2, forest.chains, {})


def test_inputs_are_left_as_they_were() -> None:
    sequences = [all_scored([1, 2, 3]), all_scored([1, 2, 4]), all_scored([1, 5])]
    copies = [ScoredSequence(s.ids.copy(), s.scored.copy()) for s in sequences]
    build_forest(sequences)
    for sequence, copy in zip(sequences, copies, strict=True):
        assert (sequence.ids == copy.ids).all()
        assert (sequence.scored == copy.scored).all()
