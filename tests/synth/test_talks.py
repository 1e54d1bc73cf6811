"""Talks between a played person and an assistant: plans, both sides' calls, guards of the roles, all accounted for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synth.form_teacher import FormTeacher
from zephyr.recipe.synth_section import UltraChatSynth
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.messages import Message, message_faults
from zephyr.synth.dialogues import Writers
from zephyr.synth.role_guard import answer_fault, person_fault, person_text
from zephyr.synth.talks import SECTORS, Talker, ask_for_follow_up, plan_talk, shorten_passage, topics
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import ChatReply

SECTION = UltraChatSynth()
SEED = 5
SAMPLING = SamplingSection(max_new_tokens=512)


def plan(number, seed=SEED, section=SECTION):
    return plan_talk(number, section, seed=seed)


def talker(teacher=None, assistant=None, section=SECTION, chunk=256, passages=()):
    teacher = teacher or FormTeacher()
    writers = Writers(assistant or teacher, SAMPLING, teacher, chunk)
    return Talker(writers, section, seed=0, passages=passages)


def talked(teacher=None, count=30, assistant=None, chunk=256):
    counts = Counter()
    return list(talker(teacher, assistant, chunk=chunk).dialogues(map(plan, range(1, count + 1)), counts)), counts


def accounted(counts):
    return sum(count for reason, count in counts.items() if reason != "talks: begun")


def test_the_topics_tree_has_its_three_sectors():
    tree = topics()
    assert (len(tree.world), len(tree.writing), len(tree.materials)) == (30, 20, 20)
    leaves = [leaf for branches in (tree.world, tree.writing) for both in branches.values() for leaf in both]
    assert len(leaves) == len(set(leaves)) > 270
    assert len(set(tree.operations)) >= 10


def test_plans_follow_from_seed_and_number_and_cover_the_sectors():
    plans = [plan(number) for number in range(300)]
    assert plans == [plan(number) for number in range(300)]
    assert plans[0] != plan(0, seed=6)
    shares = Counter(one.sector for one in plans)
    assert all(70 < shares[sector] < 130 for sector in SECTORS)
    assert {one.num_turns for one in plans} == {2, 3, 4}
    only = UltraChatSynth(world=0.0, materials=0.0)
    assert {plan(number, section=only).sector for number in range(50)} == {"writing"}


def test_talks_are_sound_dialogues_of_the_planned_length():
    talks, counts = talked()
    assert counts == {"talks: begun": 30, "talks: whole": 30}
    assert not [fault for talk in talks for fault in message_faults(talk.messages, ends_with="assistant")]
    turns = [len(talk.messages) // 2 for talk in talks]
    assert turns == [plan(number).num_turns for number in range(1, 31)]
    about_texts = [number for number in range(1, 31) if plan(number).sector == "materials"]
    assert all("nobody knows why" in talks[number - 1].messages[0].content for number in about_texts)


def test_talks_do_not_depend_on_who_is_beside_them():
    assert talked()[0] == talked(chunk=7)[0]
    assert talked()[0][:10] == talked(count=10)[0]


def test_the_assistant_sees_the_talk_and_the_person_sees_it_fenced():
    person, assistant = FormTeacher(), FormTeacher()
    talks, _ = talked(person, assistant=assistant)
    assert {request.messages[-1].role for request in assistant.asked} == {"user"}
    assert {request.messages for request in assistant.asked} >= {talk.messages[:-1] for talk in talks}
    follow_ups = [request for request in person.asked if "follow-up" in request.key]
    assert follow_ups
    assert all(len(request.messages) == 2 for request in follow_ups)
    assert all("play a person" in request.messages[0].content for request in follow_ups)


def test_no_message_can_end_its_fence():
    talk = (Message("user", "hello"), Message("assistant", "hi"))
    fence = next(line for line in ask_for_follow_up(talk, "go on")[1].content.splitlines() if line.endswith(" END"))
    bold = (Message("user", f"hello\n\n{fence}"), Message("assistant", "hi"))
    asked = ask_for_follow_up(bold, "go on")[1].content
    ends = [line for line in asked.splitlines() if line.endswith(" END")]
    assert ends[0] == fence != ends[1]


def test_given_passages_are_talked_about():
    section = UltraChatSynth(world=0.0, writing=0.0)
    teacher, counts = FormTeacher(), Counter()
    about = talker(teacher, section=section, passages=["First text.", "Second text."])
    talks = list(about.dialogues((plan(number, section=section) for number in range(12)), counts))
    ends = {talk.messages[0].content.rpartition("\n\n")[2] for talk in talks}
    assert ends == {"First text.", "Second text."}
    assert not [request for request in teacher.asked if "passage" in request.key]
    assert shorten_passage("  a b\nc " * 200).split() == ["a", "b", "c"] * 133 + ["a"]
    assert shorten_passage(" ") == ""


@pytest.mark.parametrize(
    ("part", "fault", "reason"),
    [
        ("passage", "", "failed: passage: empty answer"),
        ("opening 0", "As an AI language model, I cannot play.", "failed: opening: refuses to play"),
        ("opening 0", "How can I help you today?", "failed: opening: speaks as the assistant"),
        ("answer 0", ChatReply("", "x", "length"), "failed: answer: cut off"),
        ("answer 0", "I can't help with that.", "failed: answer: refuses"),
        ("answer 0", "Good.\nUser: and now?", "failed: answer: plays both sides"),
        ("answer 0", ChatReply("", "", "error", "down"), "failed: answer: teacher error"),
        ("follow-up 1", "Sure! Here is more.", "failed: follow-up: speaks as the assistant"),
        ("follow-up 2", "You're welcome!", "talks: ended early: follow-up: speaks as the assistant"),
        ("answer 2", "I'm sorry, but I can't help with that.", "talks: ended early: answer: refuses"),
    ],
)
def test_every_failure_has_its_reason_and_ends_the_talk(part, fault, reason):
    talks, counts = talked(FormTeacher(lambda request: fault if part in request.key else None))
    assert counts[reason] > 0
    assert accounted(counts) == counts["talks: begun"] == 30
    assert len(talks) == 30 - sum(count for name, count in counts.items() if name.startswith("failed"))
    assert not [found for talk in talks for found in message_faults(talk.messages, ends_with="assistant")]
    assert all(len(talk.messages) >= 4 for talk in talks)


def test_equal_openings_are_talked_about_once():
    talks, counts = talked(FormTeacher(lambda request: "Why is the sea salt?" if "opening" in request.key else None))
    assert counts["failed: opening: same as another"] > 15
    assert len({talk.messages[0] for talk in talks}) == len(talks)


def test_prompts_are_openings_that_are_not_led_on():
    teacher, counts = FormTeacher(), Counter()
    one = talker(teacher)
    prompts = list(one.prompts(map(plan, range(9)), counts))
    assert [len(prompt.messages) for prompt in prompts] == [1] * 9
    assert not [request for request in teacher.asked if "answer" in request.key]
    again = Counter()
    assert list(one.dialogues(map(plan, range(9)), again)) == []
    assert again["failed: opening: same as another"] == 9


def test_a_second_run_asks_nothing(tmp_path):
    teacher = FormTeacher()
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        first = talked(LedgeredTeacher(teacher, ledger))
        num_asked = len(teacher.asked)
        assert talked(LedgeredTeacher(teacher, ledger)) == first
    assert len(teacher.asked) == num_asked > 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('User: "What is it?"', "What is it?"),
        ("**User:** What is it?", "What is it?"),
        ('"Yes" and "no" are words', '"Yes" and "no" are words'),
        ("'Why?'", "Why?"),
        ("Users of this: who?", "Users of this: who?"),
    ],
)
def test_labels_and_quotes_around_the_person_are_taken_off(text, said):
    assert person_text(text) == said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty answer"),
        ("And why?\nAssistant: because", "plays both sides"),
        ("I\u2019m happy to help you with it!", "speaks as the assistant"),
        ("Let me know if you need more.", "speaks as the assistant"),
        ("As the user who asked, I want more.", "speaks of its role"),
        ("what  IS it?", "repeats what was said"),
        ("It is a long answer that goes on and on about the harbour of Lisbon and its ships.", "repeats what was said"),
        ("Could you say that in simpler words?", None),
        ("Sure, but is that so in winter?", None),
        ("Can you help me with one more thing?", None),
        ("My father says the opposite. Who is right?", None),
    ],
)
def test_what_the_person_may_not_say(text, fault):
    answer = "It is a long answer that goes on and on about the harbour of Lisbon and its ships. And more."
    assert person_fault(text, (Message("user", "What is it?"), Message("assistant", answer))) == fault


def test_answers_that_quote_a_refusal_stay():
    assert answer_fault('He wrote: "I can\'t help with that." It is a polite refusal.') is None
    assert answer_fault("I do not have personal opinions.") is not None


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_no_replies_crash_and_every_talk_is_accounted_for(replies):
    waiting = iter(replies * 500)
    talks, counts = talked(FormTeacher(lambda request: next(waiting)), count=6)
    assert accounted(counts) == counts["talks: begun"] == 6
    assert not [fault for talk in talks for fault in message_faults(talk.messages, ends_with="assistant")]
