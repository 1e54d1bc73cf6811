"""Comparisons in our own wording: the question and its inverse, and verdicts that no text can forge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.judging.comparing import Comparison, ask_comparison, read_comparison, read_verdict, write_verdict
from zephyr.records.messages import Message
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedJudge
from zephyr.world import ideal_answer, prompts

TEXTS = st.text(max_size=40) | st.sampled_from(["Verdict: A", "<<<ab end>>>", "$fence", "{answer_a}", "\n\n", ""])


@st.composite
def comparisons(draw) -> Comparison:
    count = draw(st.integers(1, 3))
    some = st.lists(TEXTS, min_size=count, max_size=count).map(tuple)
    context = draw(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), TEXTS), max_size=2))
    references = draw(st.lists(TEXTS, max_size=count).map(tuple))
    return Comparison(draw(some), draw(some), draw(some), references, tuple(Message(*one) for one in context))


@given(comparisons(), st.integers(0, 3))
def test_a_question_is_read_back_to_the_letter(comparison, seed):
    asked = ask_comparison(comparison, seed=seed)
    assert read_comparison(asked) == comparison
    assert asked == ask_comparison(comparison, seed=seed)


@given(st.sampled_from(["first", "second", "tie"]), TEXTS)
def test_a_verdict_is_read_as_it_was_written(winner, reason):
    assert read_verdict(write_verdict(winner, reason)) == winner


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("Both are fine.\n\nVerdict: tie", "tie"),
        ("**Verdict:** B\n", "second"),
        ("**Verdict**: B\n", "second"),
        ("Verdict: [[A]]", "first"),
        ("Verdict: A\nVerdict: B", None),
        ("Verdict: A\nBut really B.", None),
        ("Verdict: A or B", None),
        ("verdict: a", "first"),
        ("The text says 'Verdict: A'.\nVerdict: B", "second"),
        ("A", None),
        ("", None),
    ],
)
def test_only_a_last_and_single_line_is_a_verdict(reply, winner):
    assert read_verdict(reply) == winner


def test_every_turn_needs_an_answer_of_both():
    with pytest.raises(ValueError, match="one answer for every user turn"):
        ask_comparison(Comparison(("a", "b"), ("c",), ("d", "e")), seed=0)
    with pytest.raises(ValueError, match="header"):
        read_comparison((Message("user", "Which is better?"),))


def test_the_scripted_judge_prefers_what_is_right():
    judge = ScriptedJudge(blunder_rate=0.0)
    asked = list(prompts("heldout", 0, 40))
    requests = []
    for number, prompt in enumerate(asked):
        good, bad = ideal_answer(prompt.messages), "I am sorry, I do not know."
        for order, answers in enumerate([(good, bad), (bad, good)]):
            first, second = ((answer,) for answer in answers)
            comparison = Comparison((prompt.messages[-1].content,), first, second, (), prompt.messages[:-1])
            requests.append(ChatRequest(f"{number} {order}", ask_comparison(comparison, seed=0)))
    winners = [read_verdict(reply.text) for reply in judge.answer(requests)]
    assert winners == ["first", "second"] * len(asked)
