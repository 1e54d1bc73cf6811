"""The course of a talk: blind duels with one prompt, what is kept, what may be done when."""

from collections import Counter

import pytest

from tests.deliver.spoken import Scripted
from zephyr.deliver.ui.talk import Talk
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message

SAMPLING = SamplingSection(max_new_tokens=8)


def speakers():
    return [
        Scripted("short", lambda said: [f"to {len(said)}"]),
        Scripted("long", lambda said: ["a ", "b ", "c"]),
    ]


def finish(talk, those):
    for _ in talk.write(those, SAMPLING):
        assert talk.is_writing
        assert not talk.can_vote
        assert not talk.can_ask


def test_one_model_remembers_the_conversation():
    talk, those = Talk(1), speakers()[:1]
    talk.ask(" Hi? ", "Be kind.")
    finish(talk, those)
    assert talk.can_ask
    assert not talk.can_vote
    talk.ask("And?", "Be kind.")
    finish(talk, those)
    assert those[0].heard[1][0] == (
        Message("system", "Be kind."),
        Message("user", "Hi?"),
        Message("assistant", "to 2"),
        Message("user", "And?"),
    )


def test_both_models_always_answer_the_same_prompt():
    talk, those = Talk(2), speakers()
    for turn in range(6):
        talk.ask(f"question {turn}", "")
        finish(talk, those)
        first, second = (one.heard[-1][0] for one in those)
        assert first == second == talk.prompt
        talk.choice = ("left", "right", "tie")[turn % 3]
        kept = talk.judged(those)[turn % 3 == 1]
        talk.ask("next", "")
        assert talk.said[-2:] == [Message("user", f"question {turn}"), Message("assistant", kept.text)]
        talk.said = talk.said[:2]


def test_sides_are_drawn_for_every_question_and_names_follow_them():
    seen = Counter()
    for _ in range(200):
        talk, those = Talk(2), speakers()
        talk.ask("Hi?", "")
        finish(talk, those)
        left, right = talk.judged(those)
        assert {left.model: left.text, right.model: right.text} == {"short": "to 1", "long": "a b c"}
        seen[left.model] += 1
    # Fewer than 60 of 200 heads happen less than once in 10^8 trials.
    assert min(seen["short"], seen["long"]) > 60


def test_two_answers_grow_in_step():
    talk, those = Talk(2), [Scripted(name, lambda said: ["x"] * 4) for name in ("a", "b")]
    talk.ask("Hi?", "")
    for _ in talk.write(those, SAMPLING):
        assert len(talk.answers[0]) == len(talk.answers[1])


def test_before_the_vote_nothing_else_may_be_asked_and_after_it_nothing_written_again():
    talk, those = Talk(2), speakers()
    assert talk.can_ask
    assert not talk.can_regenerate
    talk.ask("Hi?", "")
    finish(talk, those)
    assert (talk.can_vote, talk.can_prefer, talk.can_ask, talk.can_regenerate) == (True, True, False, True)
    talk.choice = "left"
    assert (talk.can_vote, talk.can_prefer, talk.can_ask, talk.can_regenerate) == (False, False, True, False)


def test_a_new_answer_keeps_question_and_sides():
    talk, those = Talk(2), speakers()
    talk.ask("Hi?", "")
    finish(talk, those)
    sides = talk.sides
    talk.regenerate("Be brief.")
    finish(talk, those)
    assert (talk.asked, talk.sides, talk.said) == ("Hi?", sides, [])
    assert those[0].heard[1][0] == (Message("system", "Be brief."), Message("user", "Hi?"))


def test_a_stopped_answer_ends_the_writing_and_gets_no_vote():
    talk, those = Talk(2), speakers()
    talk.ask("Hi?", "")
    for _ in talk.write(those, SAMPLING):
        talk.is_stopped = True
    assert [one.closed for one in those] == [1, 1]
    assert (talk.can_vote, talk.can_regenerate, talk.can_ask, talk.is_writing) == (False, True, True, False)
    talk.ask("Again?", "")
    assert talk.said == []


def test_one_model_keeps_what_it_had_said_when_stopped():
    talk, those = Talk(1), speakers()[1:]
    talk.ask("Hi?", "")
    for _ in talk.write(those, SAMPLING):
        talk.is_stopped = True
    talk.ask("And?", "")
    assert talk.said == [Message("user", "Hi?"), Message("assistant", "a ")]


@pytest.mark.parametrize(("texts", "vote", "prefer"), [(("a", "a"), True, False), (("a", " "), False, False)])
def test_what_teaches_nothing_is_no_preference(texts, vote, prefer):
    talk, those = Talk(2), [Scripted(text, lambda said, text=text: [text]) for text in texts]
    talk.ask("Hi?", "")
    finish(talk, those)
    assert (talk.can_vote, talk.can_prefer) == (vote, prefer)
    assert talk.can_ask is not vote


def test_a_model_that_fails_leaves_a_talk_that_goes_on():
    def fail(said):
        raise RuntimeError("out of memory")

    talk, those = Talk(2), [Scripted("fails", fail), Scripted("works", lambda said: ["a"])]
    talk.ask("Hi?", "")
    with pytest.raises(RuntimeError):
        finish(talk, those)
    assert (talk.is_writing, talk.can_vote, talk.can_regenerate) == (False, False, True)


def test_halves_of_characters_do_not_reach_models_or_files():
    talk = Talk(1)
    talk.ask("a\ud800b", "\udfff")
    assert (talk.asked, talk.system) == ("a?b", "?")
