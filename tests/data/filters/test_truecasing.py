import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.rows import chat, pair, prompt
from zephyr.data.filters.truecasing import truecase, truecase_record

REPAIRED = [
    ("hello. how are you? i am", "Hello. How are you? I am"),
    ("Hello. how are you?", "Hello. How are you?"),
    ("Really! that is good.  so it is.", "Really! That is good.  So it is."),
    ("So i'm here. I\u2019m sure i\u2019ll stay", "So I'm here. I\u2019m sure I\u2019ll stay"),
    ("What can i do? Where should i go", "What can I do? Where should I go"),
    ('He left. "why not?" she asked.', 'He left. "Why not?" she asked.'),
    ("Oui. école fermée.", "Oui. École fermée."),
    ("- first. second one", "- first. Second one"),
]

LEFT_ALONE = [
    "Use e.g. this, i.e. that, etc. and so on.",
    "Wait... what is this… well then",
    "See example.com. The file is main.py, version 2.0.",
    "Visit https://example.com/a. b?c=i for more",
    "My iPhone works. iPhones do. eBay too.",
    "apples\nbananas\ncherries.\ndates",
    "1. apples\n2. bananas\na. foo\nb. bar",
    "- milk\n- bread\n* eggs",
    "```\nprint(x). then i am\n```",
    "Run `a. b` and\n    if x. y: i = 0\n",
    "for i in range(3): print(i)",
    "Let i = 0. Then x_i is the i-th element",
    '"Really?" he asked. "No!" she said.',
    "Dr. who met Mr. smith vs. the world at 5 p.m. on Jan. third.",
    "George W. bush and J. r. r. Tolkien",
    "It costs 3. then more",
    "Moulin Rouge! is a film, and Joomla! is software.",
    "n! is large, 0! and 1! are 1",
    "And she, oh! she knows. Alas! they went.",
    "positive",
    "a",
    "",
    "echo hello > file",
    "def add(a, b): return a. b",
    "find . -name '*.txt' -exec rm {} \\;",
    "Install it. npm install works.",
    "e' vero che i ragazzi sono qui",
    "Write to a@b. c or use --i am",
    "$x. y$ and \\(a. b\\)",
]


@pytest.mark.parametrize(("before", "after"), REPAIRED)
def test_sentences_and_the_pronoun_get_capitals(before, after):
    assert truecase(before) == after


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_is_no_fault_is_left_alone(text):
    assert truecase(text) == text


# Pieces of the kind the rules look at, put together at random.
WORDS = "hello I i i'm am can e.g. Dr x ( ) \" ` ``` 3 ß ǆ ŉ ა İ école http://a.b - Yahoo oh = no iPhone"
MARKS = [". ", "! ", "? ", "... ", " ", "\n", "\n\n"]
PIECES = st.lists(st.sampled_from(WORDS.split(" ")) | st.sampled_from(MARKS)).map("".join)


@given(PIECES | st.text())
@example("yes! no. ok")
def test_only_the_case_of_letters_changes_and_a_second_time_nothing(text):
    once = truecase(text)
    assert len(once) == len(text)
    assert all(new == old or (new.lower() == old and old.islower()) for old, new in zip(text, once, strict=True))
    assert truecase(once) == once


@pytest.mark.parametrize("text", ["a. " * 100_000, "`<$\\(" * 50_000, " " * 200_000, "a" * 200_000, "i " * 100_000])
def test_long_odd_texts_come_through_unchanged(text):
    # Each of them takes hours if a pattern is tried from every place to the end.
    assert truecase(text) == text


def test_filter_changes_every_text_and_says_where():
    verdict = truecase_record(chat("hi there. who is it?", "Nobody. just me."))
    assert verdict.record == chat("Hi there. Who is it?", "Nobody. Just me.")
    assert (verdict.reason, verdict.evidence) == ("capital letters", "Hi there. Who is it?")
    assert truecase_record(pair("Why?", "Well. so", "No.")).record == pair("Why?", "Well. So", "No.")


def test_filter_hands_on_the_same_row_where_nothing_changes():
    row = prompt("Nothing to do here.")
    assert truecase_record(row).record is row
