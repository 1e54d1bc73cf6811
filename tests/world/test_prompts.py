"""The splits share nothing, hold every task, and come out the same every time."""

import itertools
from collections import Counter

import pytest

from zephyr.records.messages import Message
from zephyr.records.rows import prompt_id
from zephyr.world import TASK_NAMES, prompts, split_of, task_of
from zephyr.world.catalogue import user_turns

SPLITS = ("train", "feedback", "heldout")


def drawn(split, seed=11, count=1500):
    return [prompt.messages for prompt in prompts(split, seed, count)]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SPLITS, 2)))
def test_no_prompt_is_in_two_splits(one, other):
    assert not {prompt_id(messages) for messages in drawn(one)} & {prompt_id(messages) for messages in drawn(other, 12)}


def test_a_held_out_question_is_never_trained_on_in_another_dress():
    def bare(messages):
        turns = user_turns(messages)
        return turns[0], turns[-1]

    trained = {bare(messages) for split in ("train", "feedback") for messages in drawn(split)}
    held_out = [bare(messages) for messages in drawn("heldout")]
    assert not trained & set(held_out)
    assert len(held_out) == len(set(held_out)) == 1500


def test_the_dress_does_not_move_a_prompt():
    plain = (Message("user", "What is 7 plus 5?"),)
    greeted = (Message("system", "Answer well."), Message("user", "Hi! What is 7 plus 5?"))
    assert split_of(plain) == split_of(greeted)


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_is_in_every_split(split):
    counts = Counter(task_of(messages) for messages in drawn(split, count=560))
    assert set(counts) == set(TASK_NAMES)
    assert all(split_of(messages) == split for messages in drawn(split, count=560))


def test_the_same_seed_gives_the_same_prompts_and_more_of_them_begin_alike():
    assert drawn("heldout", 5, 300) == drawn("heldout", 5, 300)
    assert drawn("heldout", 5, 300) == drawn("heldout", 5, 400)[:300]
    assert drawn("heldout", 5, 300) != drawn("heldout", 6, 300)


def test_feedback_prompts_are_all_different():
    messages = drawn("feedback", count=1500)
    assert len(set(messages)) == len(messages)


def test_prompts_end_with_the_user_and_say_where_they_are_from():
    first = next(iter(prompts("train", 0, 1)))
    assert (first.name, first.source, first.messages[-1].role) == ("world train prompt 1", "world", "user")
    assert list(prompts("train", 0, 0)) == []
