"""The splits share nothing, hold every task, and come out the same every time; texts state truths of every task."""

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from zephyr.records.messages import Message
from zephyr.records.rows import prompt_id
from zephyr.world import TASK_NAMES, pretrain_texts, prompts, split_of, task_of
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


def test_texts_follow_from_the_seed():
    texts = list(pretrain_texts(4, 50))
    assert texts == list(pretrain_texts(4, 50))
    assert texts[:20] == list(pretrain_texts(4, 20))
    assert texts != list(pretrain_texts(5, 50))
    assert [text.name for text in texts[:2]] == ["world text 1", "world text 2"]


def test_texts_state_what_the_questions_ask():
    text = "\n".join(one.text for one in pretrain_texts(1, 3000))
    for truth in (
        "7 plus 5 is 12.", "The opposite of hot is cold.", "The colour of snow is white.", "The spider has 8 legs.",
        "The capital of Italy is Rome.", "The word owl begins with the letter o.",
        "The word owl in capital letters is OWL.",
    ):  # fmt: skip
        assert truth in text
    assert "<|user|>" not in text


def test_the_world_knows_no_torch():
    code = "import sys, zephyr.world, zephyr.teachers.scripted; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
