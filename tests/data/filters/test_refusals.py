from functools import partial

import pytest

from tests.data.rows import chat, pair, prompt, rated
from zephyr.data.filters.refusals import OWN_PHRASE, PHRASES, find_refusal, judge_refusals, own_phrase
from zephyr.recipe.data_section import RefusalFilter
from zephyr.records.rows import Text

SAID = [
    "I do not have emotions.",
    "As a machine, I don\u2019t have opinions on that.",
    "I don't have personal experiences, but many people like it.",
    "**As an AI language model**, I cannot taste food.",
    "I\u2019m just an AI and do not have feelings.",
    "I'm sorry, but I can\u2019t assist with that.",
    "I apologize, but I cannot provide instructions for this.",
    "I cannot fulfill your request.",
    "Unfortunately, I'm not able to help with that request.",
    '"I\'m sorry, but I cannot help with that."',
    "As an artificial intelligence, I lack consciousness.",
    "As of my last knowledge update, it was so.",
    "I dont have access to real-time data.",
    "I MUST RESPECTFULLY DECLINE.",
]

NOT_SAID = [
    'Chatbots often begin with "As an AI language model, I cannot", which annoys people.',
    "He answered: “I'm sorry, but I can't help with that.”",
    "The log line `I cannot assist with that` marks a refusal.",
    "> As an AI language model, I cannot help.\n\nThis quotation shows what went wrong.",
    "```\nAs an AI language model, I cannot help.\n```\nis what it printed.",
    "'I do not have emotions,' said the robot, and wept.",
    "I do not know who will win the cup in 2090.",
    "I can't help but admire the view.",
    "I can't recommend this book enough!",
    "I would decline the offer, and I have to decline it politely.",
    "Dear Ann, I must respectfully decline your invitation.",
    "As an AI researcher, I study how people talk to machines.",
    "I am an AI engineer from Ghent.",
    "I don't have feelings for him any more.",
    "Language models do not have emotions, and an AI has no opinions.",
    "I'm sorry to hear that you lost your job.",
    "You could write: I do not have time.",
    "Refusals are common: some models say that they cannot assist. " * 8 + "I cannot help with that, they say.",
    "",
]


@pytest.mark.parametrize("text", SAID)
def test_refusals_are_found(text):
    assert find_refusal(text) is not None


@pytest.mark.parametrize("text", NOT_SAID)
def test_what_quotes_or_discusses_a_refusal_is_none(text):
    assert find_refusal(text) is None


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.example)
def test_every_phrase_finds_its_example(phrase):
    fault = find_refusal(phrase.example)
    assert fault is not None
    assert fault.reason == phrase.reason


def test_every_phrase_is_documented(repository):
    page = (repository / "docs" / "filters.md").read_text()
    assert [phrase.example for phrase in PHRASES if f"| {phrase.example} |" not in page] == []
    assert [phrase.reason for phrase in PHRASES if phrase.reason not in page] == []


def test_own_phrases_are_whole_words_in_any_case_with_any_apostrophe():
    own = (own_phrase("Beep  boop"), own_phrase("can't say"))
    assert find_refusal("Well, BEEP boop!", own).reason == OWN_PHRASE
    assert find_refusal("I can\u2019t say.", own).reason == OWN_PHRASE
    assert find_refusal("beep boops", own) is None
    with pytest.raises(ValueError, match=r"phrases\.0\n  String should match"):
        RefusalFilter(name="refusals", phrases=[" **  "])


REFUSAL = "I'm sorry, but I can't help with that."
judge = partial(judge_refusals, ())


def test_dialogue_is_dropped_for_any_refusing_turn_of_the_assistant():
    assert judge(chat("Hi", REFUSAL, "Please", "Fine.")).record is None
    assert judge(chat(REFUSAL, "Who says so?")).record is not None
    assert judge(prompt("Hi", REFUSAL, "Please")).record is None
    assert judge(Text("a.txt row 1", REFUSAL)).record is None


def test_of_a_preference_only_the_best_completion_counts():
    assert judge(pair("Hi", REFUSAL, "Hello.")).record is None
    assert judge(pair("Hi", "Hello.", REFUSAL)).record is not None
    assert judge(pair("Hi", REFUSAL, ratings=[0.0])).record is not None
    assert judge(pair("Hi", REFUSAL, ratings=[1.0])).record is None


def test_refusing_answers_are_taken_out_of_rated_rows():
    verdict = judge(rated("Hi", "Hello.", REFUSAL))
    assert verdict.record == rated("Hi", "Hello.")
    assert verdict.reason == "refuses"
    assert judge(rated("Hi", REFUSAL)).record is None


def test_refusals_in_real_answers(shared_data):
    """Answers of a code set hold none, of a chat set some; roleplay by AIs that are characters hardly any."""
    import json

    def share(path, field):
        rows = json.loads((shared_data / path).read_text())
        return sum(find_refusal(row[field]) is not None for row in rows) / len(rows)

    assert share("sft/gpteacher/codegen-instruct.json", "response") == 0
    assert share("sft/gpteacher/roleplay-simple-deduped-roleplay-instruct.json", "response") < 0.005
    assert share("sft/dolly/dolly_3k.json", "output") == 0
    assert 0.03 < share("eval/alpaca_eval/gpt4_1106_preview_outputs.json", "output") < 0.06
