import pytest

from tests.data.rows import chat, pair, prompt, rated
from zephyr.data.filters.lengths import LengthFilter
from zephyr.records.rows import Text


def judge(record, *, shortest=0, longest=None, turns=None):
    return LengthFilter(min_characters=shortest, max_characters=longest, max_turns=turns).judge(record)


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
