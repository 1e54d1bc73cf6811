from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.read.selection import parse_split, renamed, unwanted
from zephyr.errors import DataError
from zephyr.records.fields import Row, RowFault


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("train", range(103)),
        ("train[:10%]", range(10)),
        ("train[10%:]", range(10, 103)),
        ("train[50%:51%]", range(52, 53)),  # 51.5 and 52.53 rows
        ("train[100:200]", range(100, 103)),
        ("train[-10%:]", range(93, 103)),
        ("train[-3:]", range(100, 103)),
        ("train[:-100]", range(3)),
        ("train[:]", range(103)),
        ("test_sft[5:2]", range(5, 2)),
    ],
)
def test_rows_of_a_slice(text, rows):
    split = parse_split(text, "here")
    assert split.name == text.split("[")[0]
    assert list(split.rows(103)) == list(rows)


@given(num_rows=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 100), max_size=5).map(sorted))
def test_shares_cut_the_rows_without_gap_or_overlap(num_rows, cuts):
    ends = [0, *cuts, 100]
    slices = [parse_split(f"train[{start}%:{stop}%]", "").rows(num_rows) for start, stop in pairwise(ends)]
    assert [row for rows in slices for row in rows] == list(range(num_rows))


@pytest.mark.parametrize("text", ["", "train[", "train[10]", "train[:0.5]", "train+test", "train[::2]", "../x"])
def test_what_is_no_split_is_refused(text):
    with pytest.raises(DataError, match=r"^here: is not a split of rows, got .*; write train, train\[:10%\]"):
        parse_split(text, "here")


def test_more_than_everything_is_refused():
    with pytest.raises(DataError, match=r"^here: has a split beyond 100%, got 'train\[:101%\]'"):
        parse_split("train[:101%]", "here")


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
    assert isinstance(fault, RowFault)
    assert fault.what.startswith(f"has no field {theirs}, named in columns; ")


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
    assert (unwanted(FIELDS, where) == "") is is_kept
