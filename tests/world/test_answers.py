"""Laws of answers: right ones pass, faulty ones fail, and both depend on the conversation alone."""

from collections import Counter
from random import Random

import pytest

from zephyr.records.messages import Message
from zephyr.world import examine, faulty_answer, ideal_answer, is_accepted, is_known, prompts, task_of

PROMPTS = [prompt.messages for prompt in prompts("train", 3, 3000)]


def test_right_answers_pass():
    assert [messages for messages in PROMPTS if not is_accepted(messages, ideal_answer(messages))] == []


def test_faulty_answers_fail():
    faulty = [(messages, faulty_answer(messages, Random(number))) for number, messages in enumerate(PROMPTS)]
    assert [(messages, one) for messages, one in faulty if is_accepted(messages, one.text)] == []


def test_each_fault_is_what_it_is_called():
    for number, messages in enumerate(PROMPTS):
        text, fault = faulty_answer(messages, Random(number))
        found = examine(messages, text)
        if fault == "rambling":
            assert not found.is_brief
        elif fault == "careless":
            assert not found.in_form
        else:
            assert not found.is_right
            assert found.refuses == (fault == "refusal")


def test_all_faults_are_made_and_rambling_is_the_usual_one():
    counts = Counter(faulty_answer(messages, Random(number)).fault for number, messages in enumerate(PROMPTS))
    assert set(counts) == {"rambling", "refusal", "careless", "wrong"}
    assert counts.most_common(1)[0][0] == "rambling"


def test_answers_are_the_same_every_time():
    for messages in PROMPTS[:200]:
        assert ideal_answer(messages) == ideal_answer(tuple(messages))
        assert faulty_answer(messages, Random(5)) == faulty_answer(messages, Random(5))


def test_what_the_world_does_not_know_is_said_so():
    stranger = (Message("user", "Who wrote Faust?"),)
    assert not is_known(stranger)
    assert "do not know" in ideal_answer(stranger)
    with pytest.raises(ValueError, match="Who wrote Faust"):
        faulty_answer(stranger, Random(0))


def test_what_nobody_can_know_is_answered_honestly():
    unknowable = [messages for messages in PROMPTS if task_of(messages) == "unknowable"]
    assert {ideal_answer(messages) for messages in unknowable} == {"I do not know."}
