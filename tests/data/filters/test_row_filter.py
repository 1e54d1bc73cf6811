import pytest

from tests.data.rows import chat, pair, prompt, rated
from zephyr.data.filters.row_filter import TextFault, all_texts, with_texts, without_faulty_answers
from zephyr.records.rows import Answer, Text

ROWS = [
    (Text("a.txt row 1", "a"), Text("a.txt row 1", "A")),
    (chat("a", "b"), chat("A", "B")),
    (prompt("a", "b", "c"), prompt("A", "B", "C")),
    (pair("a", "b", "c"), pair("A", "B", "C")),
    (rated("a", Answer("b", model="m", score=2.0), "c"), rated("A", Answer("B", model="m", score=2.0), "C")),
]


@pytest.mark.parametrize(("row", "upper"), ROWS)
def test_every_text_is_changed_and_nothing_else(row, upper):
    assert with_texts(row, str.upper) == upper
    assert all_texts(upper) == tuple(text.upper() for text in all_texts(row))


@pytest.mark.parametrize(("row", "_upper"), ROWS)
def test_a_row_without_changes_is_the_same_object(row, _upper):
    assert with_texts(row, str.lower) is row


def test_answers_without_fault_stay_in_order():
    row = rated("q", "1", "x", "2")
    verdict = without_faulty_answers(row, lambda answer: TextFault("no number") if answer.text == "x" else None)
    assert verdict == (rated("q", "1", "2"), "no number", "")
    assert without_faulty_answers(row, lambda _answer: None).record is row
    assert without_faulty_answers(row, lambda _answer: TextFault("all")).record is None
