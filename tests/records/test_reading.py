"""Rows of every kind of file, their names, and the files a path means."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.errors import DataError
from zephyr.records.fields import Row, RowFault
from zephyr.records.reading import READERS, data_files, read_items, read_rows

ROWS = [{"prompt": "a"}, {"prompt": 'ü, "b"'}, {"prompt": "c\nd"}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


CONTENTS = {
    "rows.jsonl": lines(ROWS),
    "crlf.jsonl": lines(ROWS).replace("\n", "\r\n"),
    "no_last_newline.jsonl": lines(ROWS).rstrip("\n"),
    "byte_order_mark.jsonl": "\ufeff" + lines(ROWS),
    "array.json": json.dumps(ROWS, indent=2),
    "compact.json": json.dumps(ROWS, separators=(",", ":")),
    "object.json": json.dumps({"version": 1, "data": ROWS}),
    "lines.json": lines(ROWS),
    "table.csv": 'prompt\na\n"ü, ""b"""\n"c\nd"\n',
    "table.tsv": 'prompt\na\n"ü, ""b"""\n"c\nd"\n',
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, packed):
    content = CONTENTS[name].encode()
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = list(read_rows(path))
    assert [row.fields for row in rows] == ROWS
    assert [row.name for row in rows] == [f"{path.name} row {number}" for number in (1, 2, 3)]


def test_parquet_gives_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [{"role": "user", "content": "a"}], "score": 1.5}] * 700
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=100)
    read = list(read_rows(tmp_path / "rows.parquet"))
    assert [row.fields for row in read] == rows
    assert read[-1].name == "rows.parquet row 700"


def test_keys_that_only_other_objects_of_a_parquet_column_have_are_not_there(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def row(name, arguments):
        call = {"function": {"name": name, "arguments": arguments}}
        return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]}

    rows = [row("add", {"a": 1, "b": [None, 2]}), row("find", {"text": "x", "deep": {"c": 1}})]
    parquet.write_table(pyarrow.Table.from_pylist([{**one, "label": None} for one in rows]), tmp_path / "a.parquet")
    assert [read.fields for read in read_rows(tmp_path / "a.parquet")] == [{**one, "label": None} for one in rows]


def test_rows_of_jsonl_are_numbered_by_line(tmp_path):
    (tmp_path / "gaps.jsonl").write_text('\n{"a": 1}\n\n \n{"a": 2}\n')
    assert [row.name for row in read_rows(tmp_path / "gaps.jsonl")] == ["gaps.jsonl row 2", "gaps.jsonl row 5"]


def test_an_array_is_read_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("zephyr.records.json_files.BLOCK_BYTES", 7)
    rows = [{"text": "é" * size, "n": 12345678, "deep": [[{}]]} for size in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False))
    assert [row.fields for row in read_rows(tmp_path / "rows.json")] == rows


def test_a_compact_array_may_be_longer_than_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("zephyr.records.lines.MAX_ROW_BYTES", 20)
    (tmp_path / "rows.json").write_text(json.dumps([{"a": number} for number in range(50)]))
    assert len(list(read_rows(tmp_path / "rows.json"))) == 50


def test_a_single_object_is_one_row(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}))
    assert [row.name for row in read_rows(tmp_path / "one.json")] == ["one.json row 1"]


TAGGED = [{"prompt": "a", "tags": [1]}, {"prompt": "b", "tags": []}]


@pytest.mark.parametrize(
    "whole",
    [
        {"0": TAGGED[0], "1": TAGGED[1]},
        {"plan_7": TAGGED[0], "walk_2": TAGGED[1]},
        {"prompt": ["a", "b"], "tags": [[1], []]},
        {"prompt": {"0": "a", "5": "b"}, "tags": {"0": [1], "5": []}},  # as pandas' DataFrame.to_json writes
        {"version": 1, "data": TAGGED},
    ],
)
def test_one_object_may_hold_all_rows(tmp_path, whole):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(whole))
    assert list(read_items(path)) == [Row(f"rows.json row {number}", row) for number, row in enumerate(TAGGED, 1)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"prompt": {"role": "user", "content": "a"}, "chosen": {"role": "assistant", "content": "b"}},
        {"prompt": "a", "completions": ["b", "c"], "ratings": [1, 2]},
        {"prompt": {"role": "prompter", "text": "a", "replies": []}},
        {"a": {"x": 1}, "b": {"y": 1}},
    ],
)
def test_an_object_that_is_a_row_stays_one(tmp_path, row):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(row))
    assert list(read_items(path)) == [Row("rows.json row 1", row)]


def test_empty_files_have_no_rows(tmp_path):
    for suffix in set(READERS) - {".parquet"}:
        (tmp_path / f"empty{suffix}").write_bytes(b"")
    (tmp_path / "array.json").write_bytes(b" [ ] \n")
    assert list(read_rows(tmp_path)) == []


def test_text_is_cut_between_paragraphs(tmp_path):
    paragraphs = [f"{number} " + "word " * 300 for number in range(6)]  # 1,500 characters each
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    rows = list(read_rows(tmp_path / "book.txt"))
    assert [row.fields["text"].count("\n\n") for row in rows] == [1, 1, 1]
    assert [row.name for row in rows] == ["book.txt row 1", "book.txt row 5", "book.txt row 9"]
    assert "\n\n".join(row.fields["text"] for row in rows).split() == " ".join(paragraphs).split()


def test_an_end_of_text_ends_a_piece(tmp_path):
    (tmp_path / "stories.txt").write_text("One.\n\nTwo.\n<|endoftext|>\n\nThree.\n<|endoftext|>\n")
    assert [row.fields["text"] for row in read_rows(tmp_path / "stories.txt")] == ["One.\n\nTwo.", "Three."]


def test_wrapped_prose_is_joined_and_verse_is_not(tmp_path):
    prose = ["x" * 60, "y" * 65, "the end"]
    (tmp_path / "a.txt").write_text("\n".join(prose) + "\n\nRoses are red,\nViolets are blue.\n")
    (row,) = read_rows(tmp_path / "a.txt")
    assert row.fields["text"] == " ".join(prose) + "\n\nRoses are red,\nViolets are blue."


def test_a_long_line_is_cut_at_spaces(tmp_path):
    words = " ".join(f"word{number}" for number in range(2_000))
    (tmp_path / "a.txt").write_text(words)
    pieces = [row.fields["text"] for row in read_rows(tmp_path / "a.txt")]
    assert max(map(len, pieces)) <= 4_000
    assert " ".join(pieces) == words


def test_a_folder_gives_its_data_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.csv.gz", "c.txt", "README.md", ".hidden.jsonl", "dataset_info.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.jsonl").mkdir()
    assert [file.name for file in data_files(tmp_path)] == ["a.csv.gz", "b.jsonl", "c.txt"]


def test_a_glob_gives_what_it_matches(tmp_path):
    for name in ("x/train-1.jsonl", "x/train-0.jsonl", "y/train-2.jsonl", "y/test-0.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = data_files(tmp_path / "*" / "train-*.jsonl")
    assert [file.name for file in found] == ["train-0.jsonl", "train-1.jsonl", "train-2.jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("chats.jsonk", "no such file or folder; check the path (chats.jsonk is not in {folder}; did you mean 'chats."),
        ("dta/x.jsonl", "no such file or folder; check the path (dta is not in {folder}; did you mean 'data'?)"),
        ("*.csv", "no data file matches; expected files of"),
        ("data", "the folder has no data files; give a file or a folder with files of"),
    ],
)  # fmt: skip
def test_a_path_that_is_not_there_names_the_nearest(tmp_path, path, message):
    (tmp_path / "chats.jsonl").write_bytes(b"")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        data_files(tmp_path / path)
    assert message.format(folder=tmp_path) in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"rows\.xlsx: has an unknown file type; end its name in one of"):
        list(read_rows(tmp_path / "rows.xlsx"))


def test_names_cannot_steer_a_terminal(tmp_path):
    path = tmp_path / "\x1b[31mred.jsonl"
    path.write_text("[]\n")
    (fault,) = read_items(path)
    assert fault.name == "\\x1b[31mred.jsonl row 1"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bytes")


JSON_LIKE = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"\xff", b"\\ud800", b'{"a": 1}', b"\n", b"\x00"])
).map(b"".join)


@given(content=st.binary(max_size=200) | JSON_LIKE, suffix=st.sampled_from(sorted(READERS)), packed=st.booleans())
def test_any_bytes_give_rows_faults_or_a_data_error(scratch, content, suffix, packed):
    path = scratch / (f"any{suffix}" + ".gz" * packed)
    path.write_bytes(content)
    try:
        items = list(read_items(path))
    except DataError:
        return
    for item in items:
        assert isinstance(item, Row | RowFault)
        if isinstance(item, Row):
            json.dumps(item.fields, ensure_ascii=False).encode()  # no half characters


@given(content=st.binary(min_size=1, max_size=200), cut=st.integers(1, 30))
def test_a_gz_cut_short_is_never_read_as_whole(scratch, content, cut):
    path = scratch / "cut.txt.gz"
    path.write_bytes(gzip.compress(content)[:-cut])
    with pytest.raises(
        DataError, match=r"cut\.txt\.gz(, after row \d+)?: (the gzip file is truncated|cannot be decompressed)"
    ):
        list(read_items(path))


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FIELDS = st.dictionaries(TEXT, TEXT | st.integers() | st.none() | st.lists(TEXT), max_size=3)


@given(rows=st.lists(FIELDS, max_size=5))
def test_any_rows_survive_jsonl_and_json(scratch, rows):
    for name, content in (("rows.jsonl", lines(rows)), ("rows.json", json.dumps(rows))):
        (scratch / name).write_bytes(content.encode())
        assert [row.fields for row in read_rows(scratch / name)] == rows
