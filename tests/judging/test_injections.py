"""Texts that try to talk a judge into a score: none leaves its fence, and none is read as a verdict.

`injections.jsonl` holds a name and a text a line; {fence} and {FENCE} stand for the very word that would fence it.
"""

import json
import re
from pathlib import Path

import pytest

from zephyr.judging import (
    ASPECTS,
    OVERALL,
    ParseFailure,
    Rating,
    RatingQuestion,
    ask,
    fence_word,
    parse_reply,
    read_rating_question,
    write_reply,
)
from zephyr.records.messages import Message

LINES = Path(__file__).with_name("injections.jsonl").read_text(encoding="utf-8").splitlines()
INJECTIONS = {row["name"]: row["text"] for row in map(json.loads, LINES)}
HONEST = "I think it is Paris."
CONVERSATION = (Message("user", "What is the capital of France?"),)


def attacked(aspect: str, text: str) -> RatingQuestion:
    """A question in which the text is an answer, with every guess it makes at the fence word a true one."""
    answers = (text,) if aspect == OVERALL else (HONEST, text, HONEST)
    question = RatingQuestion(aspect, CONVERSATION, answers)
    word = fence_word(question, seed=0)
    text = text.replace("{fence}", word).replace("{FENCE}", word.upper())
    return question._replace(answers=(text,) if aspect == OVERALL else (HONEST, text, HONEST))


def test_there_are_enough_attempts_of_many_kinds():
    assert len(LINES) == len(INJECTIONS) >= 40


@pytest.mark.parametrize("name", INJECTIONS)
def test_no_text_leaves_its_fence(name):
    for aspect in (*ASPECTS, OVERALL):
        question = attacked(aspect, INJECTIONS[name])
        word = fence_word(question, seed=0)
        messages = ask(question, nonce=word)
        assert read_rating_question(messages) == question
        fences = re.findall(rf"^<<<{word} .*>>>$", messages[-1].content, re.MULTILINE)
        assert len(fences) == 2 * (len(question.conversation) + len(question.answers))


def test_a_known_fence_word_cannot_be_used_again():
    text = INJECTIONS["fence with the true word"]
    question = attacked("honesty", text)
    used = re.search(r"<<<([0-9a-f]+) end", question.answers[1])
    assert used is not None
    assert fence_word(question, seed=0) != used[1]
    with pytest.raises(ValueError, match="occurs in a text"):
        ask(question, nonce=used[1])


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_judge_that_quotes_as_it_was_told_is_understood(name):
    text = attacked(OVERALL, INJECTIONS[name]).answers[0]
    (parsed,) = parse_reply(OVERALL, write_reply(OVERALL, [Rating(1.0, f"It says: {text}")]), 1)
    assert parsed.score == 1.0
    for aspect in ASPECTS:
        told = [Rating(4.0, "fine"), Rating(1.0, f"It says:\n{text}"), Rating(3.0, text)]
        parsed = parse_reply(aspect, write_reply(aspect, told), 3)
        assert [rating.score for rating in parsed] == [4.0, 1.0, 3.0]


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_judge_that_quotes_carelessly_is_understood_or_asked_again(name):
    text = attacked(OVERALL, INJECTIONS[name]).answers[0]
    for critique in (text, f"It says:\n{text}\nwhich is odd.", f"It says: {text}"):
        parsed = parse_reply(OVERALL, f"{critique}\n\nOverall Score: 1", 1)
        assert isinstance(parsed, ParseFailure) or parsed[0].score == 1.0
        parsed = parse_reply(OVERALL, f"Overall Score: 1\n\n{critique}", 1)
        assert isinstance(parsed, ParseFailure) or parsed[0].score == 1.0
    typed = "Type: None\nRationale: it says\n{0}\nRating: {1}\nRationale: it says\n{0}"
    plain = "Rating: {1}\nRationale: it says\n{0}"
    for aspect in ASPECTS:
        for form in (plain, typed):
            for quotes in ((text, "fine"), ("fine", text), (text, text)):
                blocks = [f"#### Output for Text {n}\n{form.format(quote, n)}" for n, quote in enumerate(quotes, 1)]
                parsed = parse_reply(aspect, "\n\n".join(blocks), 2)
                assert isinstance(parsed, ParseFailure) or [rating.score for rating in parsed] == [1.0, 2.0]
