"""Fields under our names, and rows chosen by a value."""

import pytest

from zephyr.data.read.columns import is_wanted, renamed
from zephyr.records.fields import Fault, Row

FIELDS = {"q": "Hi", "turns": [{"content": "a"}, "b"], "a.b": 1, "ok": True, "none": None, "score": 1.5, "rest": 0}


def test_fields_take_our_names_and_lose_theirs():
    row = renamed(Row("r", FIELDS), {"prompt": "q", "completion": "turns.0.content", "score": "a.b", "label": "ok"})
    assert row == Row(
        "r", {"none": None, "score": 1, "rest": 0, "prompt": "Hi", "completion": "a", "label": True}
    )  # fmt: skip


def test_without_columns_a_row_stays_itself():
    row = Row("r", FIELDS)
    assert renamed(row, {}) is row


@pytest.mark.parametrize("theirs", ["turns.2", "turns.x", "q.0", "missing", "none.x"])
def test_a_field_that_is_not_there_is_a_fault(theirs):
    fault = renamed(Row("r", FIELDS), {"prompt": theirs})
    assert isinstance(fault, Fault)
    assert fault.what.startswith(f"has no field {theirs}, which columns names; ")


def test_the_nearest_field_is_named():
    assert "did you mean 'turns'?" in renamed(Row("r", FIELDS), {"prompt": "turn"}).what


@pytest.mark.parametrize(
    ("where", "is_kept"),
    [
        ({}, True),
        ({"q": "Hi"}, True),
        ({"q": "hi"}, False),
        ({"ok": "true", "none": "null", "score": "1.5", "rest": "0", "turns.1": "b"}, True),
        ({"q": "Hi", "ok": "false"}, False),
        ({"missing": "x"}, False),
    ],
)
def test_rows_are_chosen_by_all_their_values(where, is_kept):
    assert is_wanted(FIELDS, where) is is_kept
