import pytest

from tests.data.rows import chat
from zephyr.data.filters.languages import LanguageFilter, language_of

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
    row_filter = LanguageFilter(keep=("en", "fr"))
    assert row_filter.judge(chat(SENTENCES["en"], "Yes.")).record is not None
    assert row_filter.judge(chat("Oui?", SENTENCES["fr"])).record is not None
    assert row_filter.judge(chat("42?", "42")).record is not None
    verdict = row_filter.judge(chat(SENTENCES["de"], "Gut, ich komme am Donnerstag gerne dazu."))
    assert (verdict.record, verdict.reason) == (None, "language de")


def test_english_dialogues_of_a_bilingual_set_are_told_by_their_script(shared_data):
    import json

    rows = [json.loads(line) for line in (shared_data / "sft/moss/conversation_without_plugins.jsonl").open()]
    wrong = 0
    for row in rows:
        text = "\n".join(turn["Human"] + turn["MOSS"] for turn in row["chat"].values())
        chinese = sum("\u4e00" <= character <= "\u9fff" for character in text) > 0.1 * len(text)
        wrong += language_of(text[:2000]) != ("zh" if chinese else "en")
    assert wrong <= 0.02 * len(rows)
