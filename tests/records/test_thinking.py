"""Thinking is split off answers in every form that models and servers write it in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.records.thinking import Spoken, join_thinking, opens_thinking, split_thinking, whole_characters

HARMONY = "analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>\nHmm.\n</think>\n\nYes.", "Yes.", "Hmm."),
        ("<think>\n\n</think>\n\nYes.", "Yes.", ""),
        ("<think>Hmm. It goes on", "", "Hmm. It goes on"),
        ("Okay, the user asks.\n</think>\n\nYes.", "Yes.", "Okay, the user asks."),
        ("Okay.</think>Yes.", "Yes.", "Okay."),
        ("<think>a <think> b </think> c </think> Yes.", "Yes.", "a <think> b\nc"),
        ("<think>a</think>\n<think>b</think>\nYes.", "Yes.", "a\nb"),
        ("First.\n<think>Overall Score: 3</think>\nThen.", "First.\n\nThen.", "Overall Score: 3"),
        ("<THINK>a</THINK>Yes.", "Yes.", "a"),
        ("<thinking>a</thinking>Yes.", "Yes.", "a"),
        ("[THINK]a[/THINK]Yes.", "Yes.", "a"),
        ("<|START_THINKING|>a<|END_THINKING|>Yes.", "Yes.", "a"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>", "Yes.", "a"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>Yes.", "Yes.", "a"),
        ("<think>a</think>\n<answer> Yes. </answer>", "Yes.", "a"),
        ("<think>a</think>\n<answer>Yes.</answer> No.", "<answer>Yes.</answer> No.", "a"),
        ("◁think▷a◁/think▷Yes.", "Yes.", "a"),
        (f"<|channel|>{HARMONY}<|return|>", "Yes.", "Hm."),
        (HARMONY, "Yes.", "Hm."),
        ("<|channel|>analysis<|message|>Hm. It goes", "", "Hm. It goes"),
        ("<|channel|>final<|message|>Yes.", "Yes.", ""),
        ("<|channel|>commentary to=x <|constrain|>json<|message|>{}<|call|>", "", "{}"),
        ("analysisWe need it.assistantfinalYes.", "Yes.", "We need it."),
        ("analysisWe need", "", "We need"),
    ],
)  # fmt: skip
def test_forms_of_thinking(text, answer, reasoning):
    assert split_thinking(text) == Spoken(answer, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        " Yes. ",
        "",
        "Qwen closes its thinking by `</think>`.",
        "The tag </think> closes it.",
        "Write <think> first.",
        "```xml\n<think>\na\n</think>\n```",
        '{"</think>": -1.0, "<think>": -0.5}',
        "analysis of the text: good",
    ],
)
def test_a_text_that_only_speaks_of_tags_stays(text):
    assert split_thinking(text) == Spoken(text, "")


def test_a_prompt_may_have_opened_it():
    assert opens_thinking("<|Assistant|><think>\n")
    assert not opens_thinking("<think>\n\n</think>\n\n")
    assert split_thinking("Hm, and then", is_open=True) == Spoken("", "Hm, and then")
    assert split_thinking("Hm.</think>Yes.", is_open=True) == Spoken("Yes.", "Hm.")


@given(st.text(st.sampled_from("<>/think|` \nab."), max_size=60), st.booleans())
def test_what_was_split_and_joined_is_split_alike(text, is_open):
    once = split_thinking(text, is_open=is_open)
    twice = split_thinking(join_thinking(once))
    assert twice.answer == once.answer
    assert twice.reasoning.split() == once.reasoning.split()


def test_half_characters_go():
    assert whole_characters("caf\u00e9 \ud83d\ufffd \U0001f600") == "caf\u00e9  \U0001f600"
