"""Text while it is written: never half a character, nothing of a stop text, the same text however it is cut."""

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.models.samples import DrawnToken
from zephyr.models.streaming import StopFilter, TextListener, TextPieces, byte_reader
from zephyr.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BY_BYTE = {raw: token for token in reversed(range(len(TOKENIZER))) if len(raw := byte_reader(TOKENIZER)(token)) == 1}


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def byte_ids(raw):
    """One id for each byte: halves of characters can be written."""
    return [BY_BYTE[bytes([byte])] for byte in raw]


def listened(ids, *, stops=(), reason="length"):
    parts = []
    listener = TextListener(TOKENIZER, parts.append, stops=stops)
    stopped = any(listener.took(DrawnToken(token, -1.0)) for token in ids)
    listener.ended("stop" if stopped else reason, len(ids))
    return parts


@hypothesis.settings(max_examples=40)
@given(st.text(max_size=20))
def test_pieces_join_to_the_text(text):
    pieces = TextPieces(TOKENIZER)
    assert "".join([*map(pieces.add, byte_ids(text.encode())), pieces.rest()]) == text.replace("\ufffd", "")


@hypothesis.settings(max_examples=40)
@given(st.binary(max_size=24))
def test_bytes_that_are_no_character_are_left_out(raw):
    pieces = TextPieces(TOKENIZER)
    found = [*map(pieces.add, byte_ids(raw)), pieces.rest()]
    assert "\ufffd" not in "".join(found)


def test_half_a_character_is_held_back_until_it_is_whole():
    pieces = TextPieces(TOKENIZER)
    assert [pieces.add(token) for token in byte_ids("a\u20ac\U0001f600!".encode())] == [
        "a", "", "", "\u20ac", "", "", "", "\U0001f600", "!",
    ]  # fmt: skip
    cut = TextPieces(TOKENIZER)
    assert [cut.add(token) for token in byte_ids("\u20ac".encode()[:2])] == ["", ""]
    assert cut.rest() == ""


def test_leading_spaces_stay():
    pieces = TextPieces(TOKENIZER)
    assert "".join([*map(pieces.add, ids_of("  one two")), pieces.rest()]) == "  one two"


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("It is 10.", ["is"], "It "),
        ("It is 10.", ["10", "is"], "It "),
        ("It is 10.", ["never"], "It is 10."),
        ("abcd", ["abcd", "bc"], "a"),
        ("aab", ["ab"], "a"),
        ("abab", ["aba"], ""),
        ("xab", ["abc"], "xab"),
    ],
)
def test_text_ends_before_the_first_stop_text_however_it_is_cut(text, stops, shown):
    for size in range(1, len(text) + 1):
        filtered = StopFilter(stops)
        pieces = [filtered.add(text[start : start + size]) for start in range(0, len(text), size)]
        assert "".join([*pieces, filtered.rest()]) == shown


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_the_cut_changes_nothing(text, stops, size):
    whole, cut = StopFilter(stops), StopFilter(stops)
    pieces = [cut.add(text[start : start + size]) for start in range(0, len(text), size)]
    shown = whole.add(text) + whole.rest()
    assert "".join([*pieces, cut.rest()]) == shown
    assert not any(stop in shown for stop in stops)


def test_tokens_come_with_their_text_and_none_behind_a_stop_text():
    ids = byte_ids(b"ab\xe2\x82\xaccd")
    parts = listened(ids, stops=["cd"])
    assert [(part.text, len(part.tokens)) for part in parts[:-1]] == [("a", 1), ("b", 1), ("\u20ac", 3)]
    assert parts[-1] == ("", (), "stop", len(ids))
    held = listened(byte_ids(b"abc"), stops=["cd"])
    assert "".join(part.text for part in held) == "abc"
    assert [token.id for part in held for token in part.tokens] == byte_ids(b"abc")


def test_the_bytes_of_all_tokens_of_a_text_are_its_bytes():
    read = byte_reader(TOKENIZER)
    text = "Zwölf \u20ac, \U0001f600 def add(x):\n"
    assert b"".join(map(read, ids_of(text))) == text.encode()
    assert read(TOKENIZER.eos_token_id) == b"</s>"
    assert read(len(TOKENIZER) + 5) == b""
