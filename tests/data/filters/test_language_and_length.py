import json

import pytest

from tests.data.rows import chat, pair, prompt, rated
from zephyr.data.filters.language_and_length import judge_language, judge_length, language_of
from zephyr.recipe.data_section import LanguageFilter, LengthFilter
from zephyr.records.rows import Text

SENTENCES = {
    "en": "The committee will meet again on Thursday to discuss the plans for the new library.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um über die neue Bibliothek zu sprechen.",
    "fr": "Le comité se réunira de nouveau jeudi pour discuter des plans de la nouvelle bibliothèque.",
    "es": "El comité se reunirá de nuevo el jueves para hablar de los planes de la nueva biblioteca.",
    "zh": "委员会将于星期四再次开会\uff0c讨论新图书馆的计划\uff0c并决定是否需要更多的资金来完成这个项目。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_language_of_a_sentence_is_told(language):
    assert language_of(SENTENCES[language]) == language


@pytest.mark.parametrize("text", ["", "ok", "Paris", "42 + 17 = 59", "`print('hello world, this is a long line')`"])
def test_what_is_too_short_or_in_no_language_is_not_told(text):
    assert language_of(text) is None


def test_filter_keeps_its_languages_and_what_cannot_be_told():
    section = LanguageFilter(name="language", keep=["en", "fr"])
    assert judge_language(section, chat(SENTENCES["en"], "Yes.")).record is not None
    assert judge_language(section, chat("Oui?", SENTENCES["fr"])).record is not None
    assert judge_language(section, chat("42?", "42")).record is not None
    verdict = judge_language(section, chat(SENTENCES["de"], "Gut, ich komme am Donnerstag gerne dazu."))
    assert (verdict.record, verdict.reason) == (None, "language de")


def test_english_dialogues_of_a_bilingual_set_are_told_by_their_script(shared_data):
    rows = [json.loads(line) for line in (shared_data / "sft/moss/conversation_without_plugins.jsonl").open()]
    wrong = 0
    for row in rows:
        text = "\n".join(turn["Human"] + turn["MOSS"] for turn in row["chat"].values())
        chinese = sum("\u4e00" <= character <= "\u9fff" for character in text) > 0.1 * len(text)
        wrong += language_of(text[:2000]) != ("zh" if chinese else "en")
    assert wrong <= 0.02 * len(rows)


def judge(record, *, shortest=0, longest=None, turns=None):
    section = LengthFilter(name="length", min_characters=shortest, max_characters=longest, max_turns=turns)
    return judge_length(section, record)


@pytest.mark.parametrize(
    ("record", "dropped"),
    [
        (chat("Why?", "No."), False),
        (chat("Why?", " No "), True),  # spaces do not count
        (chat("Why?", "Because.", "So?", ""), True),
        (pair("Why?", "Because.", "No"), True),
        (prompt("Hi"), False),  # there is no answer
        (Text("a.txt row 1", "No"), True),
    ],
)
def test_the_shortest_answer_must_reach_its_length(record, dropped):
    verdict = judge(record, shortest=3)
    assert (verdict.record is None) == dropped
    assert verdict.reason == ("answer shorter than 3 characters" if dropped else "")


@pytest.mark.parametrize(
    ("record", "characters"),
    [
        (chat("12345", "678"), 8),
        (pair("12345", "678", "1"), 8),  # the prompt with its longest answer
        (prompt("12345"), 5),
        (Text("a.txt row 1", "1234"), 4),
    ],
)
def test_the_longest_row_is_measured_in_characters(record, characters):
    assert judge(record, longest=characters).record is record
    verdict = judge(record, longest=characters - 1)
    assert verdict.record is None
    assert verdict.evidence == f"{characters} characters"


@pytest.mark.parametrize(
    ("record", "messages"), [(chat("1", "2", "3", "4"), 4), (prompt("1", "2", "3"), 3), (pair("1", "2", "3"), 2)]
)
def test_the_most_messages_count_the_answer(record, messages):
    assert judge(record, turns=messages).record is record
    assert judge(record, turns=messages - 1).reason == f"more than {messages - 1} messages"


def test_of_rated_rows_only_the_answers_at_fault_are_taken_out():
    row = rated("Why?", "Because of the rain.", "No", "It rained.")
    assert judge(row, shortest=3).record == rated("Why?", "Because of the rain.", "It rained.")
    assert judge(row, longest=14).record == rated("Why?", "No", "It rained.")
    assert judge(row, longest=5).record is None
