"""Examples: what is refused, in which words, and how mismatched completions are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.errors import DataError
from zephyr.train.examples import check_examples, expect_comparison, expect_dialogue, with_mismatched_completions


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


GOOD = Dialogue("chats row 1", ids(1, 2, 3), np.array([False, True, True]))
PAIR = Comparison("pairs row 1", ids(1, 2), (ids(3), ids(4, 5)), (1.0, 0.0))


def labelled(prompt, completion, rating=1.0):
    return Comparison(f"row {completion}", ids(prompt), (ids(completion),), (rating,))


def test_good_examples_pass():
    check_examples([GOOD, PAIR, labelled(1, 2)])
    check_examples([])


@pytest.mark.parametrize(
    ("example", "fault"),
    [
        (GOOD._replace(scored=np.zeros(3, dtype=bool)), "none of its 3 tokens is scored"),
        (GOOD._replace(scored=np.ones(3, dtype=bool)), "its first token is scored, but nothing precedes it"),
        (GOOD._replace(scored=np.ones(2, dtype=bool)), "scored must be one bool a token, got bool (2,)"),
        (GOOD._replace(ids=np.ones(3)), "ids must be a vector of int64, got float64 (3,)"),
        (GOOD._replace(ids=ids(1, -100, 2)), "ids holds the negative token id -100"),
        (PAIR._replace(prompt=ids()), "prompt is empty"),
        (PAIR._replace(completions=(ids(3), ids())), "completion 1 is empty"),
        (PAIR._replace(completions=(), ratings=()), "it has no completion"),
        (PAIR._replace(ratings=(1.0,)), "2 completions need as many ratings, got 1"),
        (PAIR._replace(ratings=(1.0, float("nan"))), "its ratings must be finite, got (1.0, nan)"),
        (PAIR._replace(ratings=(0.0, 1.0)), "its completions must stand best first, got ratings (0.0, 1.0)"),
    ],
)
def test_a_broken_example_is_named_with_its_fault(example, fault):
    with pytest.raises(DataError) as caught:
        check_examples([GOOD, PAIR, example])
    expected = f"1 of 3 training examples: {example.name}: {fault}; repair or remove these rows"
    assert str(caught.value) == expected


def test_many_broken_examples_are_counted():
    broken = [GOOD._replace(name=f"row {row}", ids=ids(), scored=np.zeros(0, dtype=bool)) for row in range(7)]
    with pytest.raises(DataError, match=r"^7 of 7 training examples: row 0: ids is empty.*, and 2 more; "):
        check_examples(broken)


def test_an_example_of_the_other_kind_or_size_is_refused():
    assert expect_dialogue(GOOD, "sft") is GOOD
    assert expect_comparison(PAIR, "dpo", 2, 2) is PAIR
    with pytest.raises(TypeError, match=r"pairs row 1: objective sft learns from dialogues, got a comparison"):
        expect_dialogue(PAIR, "sft")
    with pytest.raises(TypeError, match=r"chats row 1: objective dpo learns from comparisons, got a dialogue"):
        expect_comparison(GOOD, "dpo", 2, 2)
    with pytest.raises(DataError, match=r"^pairs row 1: objective kto needs 1 completions a prompt, got 2; "):
        expect_comparison(PAIR, "kto", 1, 1)
    with pytest.raises(DataError, match=r"^pairs row 1: objective x needs 3 to 4 completions a prompt, got 2"):
        expect_comparison(PAIR, "x", 3, 4)


def test_mismatched_completions_answer_the_next_other_prompt():
    paired = with_mismatched_completions([labelled(1, 10), labelled(1, 11), labelled(2, 12), labelled(3, 13)])
    assert [example.completions[1].item() for example in paired] == [12, 12, 13, 10]
    assert [example.completions[0].item() for example in paired] == [10, 11, 12, 13]
    assert {example.ratings for example in paired} == {(1.0, 0.0)}
    check_examples(paired)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=12).filter(lambda prompts: len(set(prompts)) > 1))
def test_mismatched_prompts_always_differ(prompts):
    examples = [labelled(prompt, 100 + row, rating=0.0) for row, prompt in enumerate(prompts)]
    for row, example in enumerate(with_mismatched_completions(examples)):
        assert prompts[example.completions[1].item() - 100] != prompts[row]


def test_one_prompt_alone_has_no_mismatch():
    with pytest.raises(DataError, match=r"needs at least two different prompts, got 1; add examples"):
        with_mismatched_completions([labelled(1, 10), labelled(1, 11)])
    with pytest.raises(DataError, match=r"needs at least two different prompts, got 0; add examples"):
        with_mismatched_completions([])
