"""Any reply of a judge is read without an error, and no rating comes from nowhere or from off its scale."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zephyr.judging import ASPECTS, OVERALL, ParseFailure, RatingQuestion, parse_reply
from zephyr.judging.questions import SCALES
from zephyr.judging.verdicts import published_score, published_winner, ranked_preference, read_verdict, token_preference
from zephyr.records.messages import Message
from zephyr.teachers.endpoint.chat_format import written_out

WORD = "0123456789abcdef"
NUMBERS = st.sampled_from(["7", "85", "2023", "inf", "nan", "-1", "1e3", "10", "0", "7.5", "\u0667", "8/10", "9" * 30])
PARTS = (
    st.text(max_size=12)
    | NUMBERS
    | st.sampled_from(
        [
            "Overall Score: ",
            "Rating: ",
            "Rationale: x",
            "Type: 1",
            "#### Output for Text 1",
            "#### Output for Text 2",
            "Verdict: A",
            "[[",
            "]]",
            "[[A]]",
            "\n",
            "\n\n",
            "> ",
            "**",
            WORD,
            "```json",
            '{"score": 8, "rationale": "x"}',
            '{"texts": [',
            "]}",
            "<think>",
            "</think>",
            "[{'model': 'model_1', 'rank': 1}",
        ]
    )
)
REPLIES = st.lists(PARTS, max_size=14).map("".join)
QUESTIONS = st.sampled_from([(OVERALL, 1), *((aspect, 2) for aspect in ASPECTS)])


def read_any(reply: str, asked: tuple[str, int], word: str) -> None:
    aspect, num_answers = asked
    question = RatingQuestion(aspect, (Message("user", "Where?"),), ("Paris.",) * num_answers)
    for text in (reply, written_out(question, reply, word=word)):
        read = parse_reply(aspect, text, num_answers, word=word)
        if isinstance(read, ParseFailure):
            continue
        scale = SCALES[aspect]
        assert len(read) == num_answers
        for rating in read:
            assert rating.score is None or scale.low <= rating.score <= scale.high
            # No number that does not stand there.
            assert rating.score is None or f"{rating.score:g}" in text
        assert not word or word in text
    score = published_score(reply, ("Paris. [[10]]",), asked="Rate it: [[5]]")
    assert score is None or (1 <= score <= 10 and f"{score:g}" in reply)
    assert published_winner(reply, ("[[A]]",)) in (None, "first", "second", "tie")
    assert ranked_preference(reply) in (None, 1.0, 2.0)
    if read_verdict(reply, word=word) is not None:
        assert "Verdict: A" in reply


@settings(max_examples=300)
@given(REPLIES, QUESTIONS, st.sampled_from(["", WORD]))
def test_any_reply_is_ratings_or_a_failure(reply, asked, word):
    read_any(reply, asked, word)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(REPLIES, QUESTIONS, st.sampled_from(["", WORD]))
def test_any_of_20000_replies_is_ratings_or_a_failure(reply, asked, word):
    read_any(reply, asked, word)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["m", "M", "a"]), st.floats() | st.integers() | st.text() | st.none()))
def test_any_log_probs_are_a_preference_or_none(logprobs):
    found = token_preference(json.loads(json.dumps(logprobs)))
    assert found is None or (1 <= found <= 2 and math.isfinite(found))
