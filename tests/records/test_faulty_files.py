"""What is said of files that are broken: file, row, and what to do."""

import gzip

import pytest

from zephyr.errors import DataError
from zephyr.records.fields import RowFault
from zephyr.records.reading import read_items, read_rows

GOOD = b'{"prompt": "a"}\n'
CUT_GZ = gzip.compress(GOOD * 50, mtime=0)[:-9]


@pytest.mark.parametrize(
    ("line", "reason", "what"),
    [
        (b'{"prompt": "b', "torn last line", "the last line is cut off: no whole JSON object, and no newline after it"),
        (b'{"prompt": b}\n', "not JSON", "is not JSON (Expecting value at character 12), got '{\"prompt\": b}'"),
        (b'{"prompt": "\xe9"}\n', "not UTF-8", "byte 13 (0xe9) is not UTF-8; convert the file"),
        (b'["b"]\n', "not an object", "is not an object of fields, got ['b']"),
        (b'{"prompt": "\\ud83d"}\n', "half a character", "holds half a character (a lone surrogate)"),
        (b"[" * 100_000 + b"\n", "not JSON", "is not JSON (nested too deeply), got '" + "[" * 78 + "…"),
        (b'{"n": ' + b"9" * 5_000 + b"}\n", "not JSON", "is not JSON (Exceeds the limit (4300 digits)"),
    ],
)  # fmt: skip
def test_a_faulty_line_costs_itself_alone(tmp_path, line, reason, what):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + line + (GOOD if line.endswith(b"\n") else b""))
    first, fault, *rest = read_items(path)
    assert first.fields == {"prompt": "a"}
    assert isinstance(fault, RowFault)
    assert (fault.name, fault.reason) == ("rows.jsonl row 2", reason)
    assert fault.what.startswith(what)
    assert [row.name for row in rest] == ["rows.jsonl row 3"] * line.endswith(b"\n")
    with pytest.raises(DataError, match=r"^rows\.jsonl row 2: "):
        list(read_rows(path))


def test_a_line_of_50_mb_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b'{"prompt": "' + b"x" * 50_000_000 + b'"}\n' + GOOD)
    first, fault, last = read_items(path)
    assert fault == RowFault("rows.jsonl row 2", "row too long", "is longer than 16 MB, the most a row may have")
    assert (first.name, last.name) == ("rows.jsonl row 1", "rows.jsonl row 3")


def test_a_line_of_the_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("zephyr.records.lines.MAX_ROW_BYTES", 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "12345"}\n' + b'{"prompt": "123456"}\n' + b'{"prompt": "1234567"}\n')
    assert [isinstance(item, RowFault) for item in read_items(path)] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl.gz", CUT_GZ, "rows.jsonl.gz, after row 50: the gzip file is truncated; download"),
        ("rows.jsonl.gz", GOOD, "rows.jsonl.gz: cannot be decompressed (Not a gzipped file"),
        ("rows.json", b'[{"a": 1}, {"a": ', "rows.json row 2: is not JSON, or cut off (Expecting value); fix"),
        ("rows.json", b'[{"a": 1}', "rows.json, after rows.json row 1: the JSON ends where ',' is"),
        ("rows.json", b'[{"a": 1} {"a": 2}]', "rows.json, after rows.json row 1: the JSON has '{' where ',' is"),
        ("rows.json", b'[{"a": 1},]', "rows.json row 2: is not JSON"),
        ("rows.json", b"[] []", "rows.json: has text after the array: '['; leave one array in the file"),
        ("rows.json", b"5", "rows.json: holds no rows, got 5; write an array of objects"),
        ("rows.json", b'{"a": [{}], "b": [{}]}', "rows.json: holds several lists of rows (a, b); leave one"),
        ("rows.json", b'{"a": "\xff"}', "rows.json: byte 8 (0xff) is not UTF-8"),
        ("rows.csv", b"\x80\n1\n", "rows.csv: the header is not UTF-8; convert the file"),
        ("rows.csv", b"a,a\n1,2\n", "rows.csv: the header names a twice; give every column its own name"),
        ("rows.csv", b'a,b\n1,2\n1,"2\n3,4\n', "rows.csv row 2: is not a table row (unexpected end of data); look"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_items(tmp_path / name))
    assert str(caught.value).startswith(message)


def test_rows_of_tables_and_arrays_are_faulty_one_by_one(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n1\n\xff,2\n")
    (tmp_path / "a.json").write_bytes(b'[{"a": 1}, 5, {"a": "\xff"}, {"a": "\\udc00"}]')
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\ntwo\n")
    reasons = {
        path.suffix: [item.reason if isinstance(item, RowFault) else "" for item in read_items(path)]
        for path in sorted(tmp_path.iterdir())
    }
    assert reasons == {
        ".csv": ["", "wrong number of cells", "not UTF-8"],
        ".json": ["", "not an object", "not UTF-8", "half a character"],
        ".txt": ["not UTF-8", ""],
    }


def test_parquet_that_is_none_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a\.parquet, after row 0: is not a complete Parquet file"):
        list(read_items(tmp_path / "a.parquet"))


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"which is not installed; pip install 'zephyr-align\[hub\]'"):
        list(read_items(tmp_path / "a.parquet"))
