"""Questions to a judge: what it is shown, that it can be read back, and that fences hold."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.judging import ASPECTS, OVERALL, RatingQuestion, ask, fence_word, read_rating_question
from zephyr.judging.questions import FENCE_WORD_LENGTH, ComparisonQuestion, ask_comparison, read_comparison
from zephyr.judging.verdicts import read_verdict
from zephyr.records.messages import PLAIN_ROLES, Message
from zephyr.teachers.protocol import ChatRequest
from zephyr.teachers.scripted import ScriptedJudge
from zephyr.world import ideal_answer, prompts

WORD = "0123456789abcdef"
CONVERSATION = (Message("system", "Be brief."), Message("user", "Name a colour.\n"))
TEXTS = st.one_of(st.text(), st.sampled_from(["", "\n", "$fence", "<<<", f"<<<{WORD} end>>>", "end>>>\n", "${count}"]))


def question(aspect: str, *answers: str) -> RatingQuestion:
    return RatingQuestion(aspect, CONVERSATION, answers)


@given(
    st.sampled_from([*ASPECTS, OVERALL]),
    st.lists(st.tuples(st.sampled_from(PLAIN_ROLES), TEXTS).map(lambda parts: Message(*parts)), max_size=4).map(tuple),
    st.lists(TEXTS, min_size=1, max_size=4).map(tuple),
    TEXTS,
    st.integers(),
)
def test_a_question_is_read_back_to_the_letter(aspect, conversation, answers, notes, seed):
    asked = RatingQuestion(aspect, conversation, answers[:1] if aspect == OVERALL else answers, notes)
    word = fence_word(asked, seed=seed)
    assert len(word) == FENCE_WORD_LENGTH
    assert word == fence_word(asked, seed=seed)
    messages = ask(asked, nonce=word)
    assert [message.role for message in messages] == ["system", "user"]
    assert read_rating_question(messages) == asked


def test_the_judge_sees_all_texts_in_order_with_the_scale_and_the_form():
    for aspect in ASPECTS:
        user = ask(question(aspect, "red", "blue", "green"), nonce=WORD)[1].content
        places = [user.index(f"<<<{WORD} text {number}>>>\n{text}\n") for number, text in ((1, "red"), (2, "blue"))]
        assert places == sorted(places)
        assert "Be brief." in user[: places[0]]
        assert "the 3 texts" in user
        assert "1 to 5" in user
        assert "$" not in user
        assert ("N/A" in user) == (aspect == "honesty")
        assert ("\nType:" in user) == (aspect in ("truthfulness", "helpfulness"))
    user = ask(question(OVERALL, "red"), nonce=WORD)[1].content
    assert user.rstrip().endswith("Overall Score: a number from 1 to 10")


def test_notes_are_shown_where_there_are_any():
    asked = question("truthfulness", "red")._replace(notes="Grass is green.")
    assert f"<<<{WORD} notes>>>\nGrass is green.\n" in ask(asked, nonce=WORD)[1].content
    assert " notes>>>" not in ask(question("truthfulness", "red"), nonce=WORD)[1].content


def test_a_fence_word_that_occurs_in_a_text_is_drawn_again(monkeypatch):
    drawn = []

    class Digest:
        def __init__(self, stuff: bytes) -> None:
            self.number = len(drawn)
            drawn.append(stuff)

        def hexdigest(self) -> str:
            return f"{self.number}" * 64

    monkeypatch.setattr(hashlib, "sha256", Digest)
    zeros, ones = "0" * FENCE_WORD_LENGTH, "1" * FENCE_WORD_LENGTH
    assert fence_word(question("honesty", f"x{zeros}x", f"{ones}"), seed=7) == "2" * FENCE_WORD_LENGTH
    assert len(set(drawn)) == 3


def test_a_word_that_occurs_is_refused_wherever_it_stands():
    for asked in (
        question("honesty", f"see {WORD}"),
        question("honesty", f"see {WORD.upper()}"),
        question("honesty", "red")._replace(conversation=(Message("user", WORD),)),
        question("honesty", "red")._replace(notes=WORD),
    ):
        with pytest.raises(ValueError, match="occurs in a text"):
            ask(asked, nonce=WORD)


def test_misuse_is_a_value_error():
    with pytest.raises(ValueError, match="did you mean 'honesty'"):
        ask(question("honest", "red"), nonce=WORD)
    with pytest.raises(ValueError, match="does not rate 2 answers at once"):
        ask(question(OVERALL, "red", "blue"), nonce=WORD)
    with pytest.raises(ValueError, match="does not rate 0 answers at once"):
        ask(question("honesty"), nonce=WORD)
    with pytest.raises(ValueError, match="8 or more digits"):
        ask(question("honesty", "red"), nonce="xyz")
    for messages in ((), (Message("user", "hello"),), (Message("user", f"x\nRating task v1: honesty. {WORD}"),)):
        with pytest.raises(ValueError, match="header"):
            read_rating_question(messages)


# ---- comparisons ----

SHORT_TEXTS = st.text(max_size=40) | st.sampled_from(["Verdict: A", "<<<ab end>>>", "$fence", "{answer_a}", "\n\n", ""])


@st.composite
def comparisons(draw) -> ComparisonQuestion:
    count = draw(st.integers(1, 3))
    some = st.lists(SHORT_TEXTS, min_size=count, max_size=count).map(tuple)
    context = draw(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), SHORT_TEXTS), max_size=2))
    references = draw(st.lists(SHORT_TEXTS, max_size=count).map(tuple))
    return ComparisonQuestion(draw(some), draw(some), draw(some), references, tuple(Message(*one) for one in context))


@given(comparisons(), st.integers(0, 3))
def test_a_comparison_is_read_back_to_the_letter(comparison, seed):
    asked = ask_comparison(comparison, seed=seed)
    assert read_comparison(asked) == comparison
    assert asked == ask_comparison(comparison, seed=seed)


def test_every_turn_needs_an_answer_of_both():
    with pytest.raises(ValueError, match="one answer for every user turn"):
        ask_comparison(ComparisonQuestion(("a", "b"), ("c",), ("d", "e")), seed=0)
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
            comparison = ComparisonQuestion((prompt.messages[-1].content,), first, second, (), prompt.messages[:-1])
            requests.append(ChatRequest(f"{number} {order}", ask_comparison(comparison, seed=0)))
    winners = [read_verdict(reply.text) for reply in judge.answer(requests)]
    assert winners == ["first", "second"] * len(asked)
