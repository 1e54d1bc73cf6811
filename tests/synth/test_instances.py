"""Classes and instances: how they are asked for and read, and which instances are kept."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synth.form_teacher import FormTeacher
from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.synth.instances import (
    ask_for_class,
    ask_for_instances,
    classify,
    read_instances,
    says_yes,
    write_instances,
)
from zephyr.synth.tasks import InstructionTask as Task
from zephyr.synth.tasks import TaskInstance as Instance
from zephyr.teachers.protocol import ChatReply

OPEN = Task("t", "Explain the word", is_classification=False)
CLASS = Task("t", "Judge the text", is_classification=True)
SECTION = SelfInstructSynth(seeds="seeds.jsonl")


def read(text, task=OPEN, reason="stop"):
    counts = Counter()
    return read_instances(ChatReply("k", text, reason), task, counts), counts


def kept(text, task=OPEN, seed=0):
    counts = Counter()
    teacher = FormTeacher(lambda request: text)
    tasks = list(write_instances([task], teacher, SECTION, counts, seed=seed))
    return [instance for one in tasks for instance in one.instances], counts


def test_the_classification_prompt_has_31_examples():
    (message,) = ask_for_class("Sort it")
    assert message.content.count("\nClassification: ") == 31
    assert message.content.endswith("Task: Sort it\nClassification:")


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True), ("yes", True), (" YES\nTask: more", True), ("Yes.", True), ("yesTask", True),
        ("No", False), ("Yes, it is", False), ("yEs", False), ("", False),
    ],
)  # fmt: skip
def test_only_a_plain_yes_is_one(text, yes):
    assert says_yes(ChatReply("k", text, "length")) is yes


def test_classes_are_asked_for_as_published_and_failures_are_left_out():
    teacher = FormTeacher(lambda request: ChatReply("", "", "error", "down") if "lost" in request.key else None)
    counts = Counter()
    found = list(classify(["Judge the text", "Explain the word"], teacher, counts, seed=0))
    assert [(task.instruction, task.is_classification) for task in found] == [
        ("Judge the text", True),
        ("Explain the word", False),
    ]
    assert counts == {"tasks: classification": 1, "tasks: other": 1}
    assert {(request.temperature, request.max_tokens) for request in teacher.asked} == {(0.0, 3)}
    failing = FormTeacher(lambda request: ChatReply("", "", "error", "down"))
    counts = Counter()
    assert list(classify(["a"], failing, counts, seed=0)) == []
    assert counts == {"failed: teacher error": 1}


def test_the_output_comes_first_for_classes_alone():
    assert "Class label" in ask_for_instances(CLASS)[0].content
    assert "Class label" not in ask_for_instances(OPEN)[0].content
    teacher = FormTeacher()
    list(write_instances([CLASS, OPEN], teacher, SECTION, Counter(), seed=0))
    assert [request.max_tokens for request in teacher.asked] == [300, 350]


def test_examples_are_read_with_and_without_numbers_and_inputs():
    text = "Example 1\nInput: a\nb\nOutput: c\nd\n\nExample 2\nOutput: an Example 3 of it\n\nExample 3.\nonly this"
    assert read(text)[0] == [
        Instance("a\nb", "c\nd"),
        Instance("", "an Example 3 of it"),
        Instance("", "only this"),
    ]
    assert read("Output: one")[0] == [Instance("", "one")]
    assert read("Input: x\nOutput: y\nInput: z\nOutput: w")[0] == [Instance("x", "y")]
    assert read("I cannot think of any.") == ([], {"failed: not in the form of examples": 1})


@pytest.mark.parametrize(
    "form",
    [
        "Here is one example for the task.\n\nExample 1\nInput: a\nOutput: b",
        "### Example 1\nInput: a\nOutput: b",
        "**Example 1**\n**Input:** a\n**Output:** b",
        "**Example 1:**\n**Input**: a\n**Output**: b",
        "Sure! Here is one:\n\nInput: a\nOutput: b",
        "```\nExample 1\nInput: a\nOutput: b\n```",
        "- Example 1\n- Input: a\n- Output: b",
        "Example 1\nInput: a\nOutput: b\n\nI hope this helps!",
    ],
)
def test_examples_of_chat_models_are_read_like_plain_ones(form):
    assert read(form)[0] == [Instance("a", "b")]


def test_an_announcement_is_no_input():
    assert read("Here is an example.\n\nOutput: b")[0] == [Instance("", "b")]
    bold = "**Class label:** Good\nText: fine\n\n### Class label: **Bad**\nText: poor"
    assert read(bold, CLASS)[0] == [Instance("Text: fine", "Good"), Instance("Text: poor", "Bad")]


def test_labels_are_read_with_what_follows_them():
    text = "Class label: Good\nText: fine\nmore\nClass label: Bad\nText: poor\nClass label: None"
    assert read(text, CLASS)[0] == [
        Instance("Text: fine\nmore", "Good"),
        Instance("Text: poor", "Bad"),
        Instance("", "None"),
    ]
    assert read("Good", CLASS)[0] == []


def test_what_was_cut_off_loses_its_last_instance_and_stops_end_a_reply():
    text = "Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d"
    assert read(text, reason="length") == ([Instance("a", "b")], {"instances: cut off": 1})
    assert read("Example 1\nOutput: half", reason="length")[1] == {"instances: cut off": 1, "failed: cut off": 1}
    stopped = f"{text}\nExample 6\nInput: e\nOutput: f"
    assert read(stopped, reason="length")[0] == [Instance("a", "b"), Instance("c", "d")]
    assert read("Output: b\n\nTask: another\nOutput: c")[0] == [Instance("", "b")]


def test_unsound_instances_are_dropped_by_reason():
    text = "Example 1\nInput: a\nOutput: a\nExample 2\nInput: b\nOutput:\nExample 3\nInput: c:\nOutput: d\nExample 4\n"
    found, counts = kept(f"{text}Input: e\nOutput: f:\nExample 5\nInput: g\nOutput: h\nExample 5\nInput: g\nOutput: h")
    assert found == [Instance("g", "h")]
    assert counts == {
        "instances: output equals input": 1,
        "instances: without output": 1,
        "instances: ends with a colon": 2,
        "instances: twice": 1,
        "instances: kept": 1,
    }


def test_one_input_with_two_outputs_spoils_the_task_unless_it_is_empty():
    found, counts = kept(
        "Example 1\nInput: a\nOutput: b\nExample 2\nInput: a\nOutput: c\nExample 3\nInput: d\nOutput: e"
    )
    assert found == []
    assert counts == {"instances: one input with two outputs": 3, "instances: kept": 0, "failed: no sound instance": 1}
    assert len(kept("Example 1\nOutput: b\nExample 2\nOutput: c")[0]) == 2


def test_at_most_five_are_kept_at_random():
    text = "\n".join(f"Example {n if n < 6 else 5}\nInput: i{n}\nOutput: o{n}" for n in range(1, 9))
    found, counts = kept(text)
    assert len(found) == 5
    assert counts["instances: more than wanted"] == 3
    assert found == kept(text)[0]
    assert {tuple(kept(text, seed=seed)[0]) for seed in range(5)} != {tuple(found)}


@given(st.text(alphabet="EITxample 123:.\nInputOutputClass label", max_size=200), st.booleans())
def test_no_reply_crashes_and_every_reply_is_accounted_for(text, is_classification):
    found, counts = kept(text, OPEN._replace(is_classification=is_classification))
    failed = sum(count for reason, count in counts.items() if reason.startswith("failed"))
    assert failed == (0 if found else 1)
    assert len(found) == counts["instances: kept"] <= 5
    assert all(instance.output for instance in found)
