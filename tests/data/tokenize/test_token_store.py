import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zephyr.data.tokenize.token_store import (
    COLUMNS,
    Comparison,
    Dialogue,
    DialogueStore,
    PreferenceStore,
    TokenWriter,
)
from zephyr.errors import DataError

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)


def array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int64)


def write_dialogues(folder: Path, rows: list[tuple[str, list[int], list[bool]]]) -> DialogueStore:
    with TokenWriter(folder, "dialogues") as writer:
        for name, ids, scored in rows:
            writer.add(Dialogue(name, array(ids), np.array(scored, np.bool_)))
    return DialogueStore(folder)


def write_preferences(folder: Path) -> PreferenceStore:
    with TokenWriter(folder, "preferences") as writer:
        writer.add(Comparison("a row 1", array([5, 6]), (array([7]), array([8, 9])), (2.0, 1.5)))
        writer.add(Comparison("a row 2", array([5]), (array([1, 2, 3]),), (0.0,)))
        writer.add(Comparison("b row 1", array([4]), (array([0]), array([1]), array([2])), (3.0, 2.0, 1.0)))
    return PreferenceStore(folder)


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(st.text(max_size=5), IDS, st.randoms(use_true_random=False)), max_size=12))
def test_dialogues_come_back_as_they_went_in(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("stores") / "store"
    masked = [
        (name.encode("utf-8", "ignore").decode(), ids, [bool(rng.getrandbits(1)) for _ in ids])
        for name, ids, rng in rows
    ]
    store = write_dialogues(folder, masked)
    assert [(row.name, row.ids.tolist(), row.scored.tolist()) for row in store] == masked
    assert store.lengths().tolist() == [len(ids) for _, ids, _ in masked]
    assert store.num_tokens == sum(map(len, (ids for _, ids, _ in masked)))
    assert all((row.ids.dtype, row.scored.dtype) == (np.int64, np.bool_) for row in store)


def test_preferences_come_back_as_they_went_in(tmp_path):
    store = write_preferences(tmp_path / "store")
    assert len(store) == 3
    assert [(row.name, row.prompt.tolist(), [c.tolist() for c in row.completions], row.ratings) for row in store] == [
        ("a row 1", [5, 6], [[7], [8, 9]], (2.0, 1.5)),
        ("a row 2", [5], [[1, 2, 3]], (0.0,)),
        ("b row 1", [4], [[0], [1], [2]], (3.0, 2.0, 1.0)),
    ]
    assert store.lengths().tolist() == [5, 4, 4]
    assert store[-1].name == "b row 1"
    assert [row.name for row in store[1:]] == ["a row 2", "b row 1"]
    with pytest.raises(IndexError, match="row 3 of 3"):
        store[3]


def test_a_store_without_rows_is_empty(tmp_path):
    assert list(write_dialogues(tmp_path / "store", [])) == []


def write_until_it_breaks(folder: Path) -> None:
    with TokenWriter(folder, "preferences") as writer:
        writer.add(Comparison("new", array([1]), (array([2]),), (1.0,)))
        raise RuntimeError("enough")


def test_an_interrupted_writer_leaves_nothing_and_the_old_store_stands(tmp_path):
    folder = tmp_path / "store"
    write_preferences(folder)
    with pytest.raises(RuntimeError, match="enough"):
        write_until_it_breaks(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert PreferenceStore(folder)[0].name == "a row 1"


def test_a_store_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "store"
    with TokenWriter(folder, "dialogues") as writer:
        writer.add(Dialogue("a", array([1]), np.array([False])))
        assert not folder.exists()
    assert folder.exists()


@pytest.mark.parametrize("column", sorted({name for columns in COLUMNS.values() for name in columns} - {"scored"}))
def test_a_changed_byte_is_named(tmp_path, column):
    folder = tmp_path / "store"
    write_preferences(folder)
    path = folder / f"{column}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"token store .*: {column}\.npy does not have the SHA-256 .*; delete this folder"
    ):
        PreferenceStore(folder)
    assert len(PreferenceStore(folder, verify=False)) == 3


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_torn_files_are_named_even_without_hashing(tmp_path, verify):
    folder = tmp_path / "store"
    write_preferences(folder)
    path = folder / "ids.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"ids\.npy has \d+ bytes where manifest\.json says"):
        PreferenceStore(folder, verify=verify)
    path.unlink()
    with pytest.raises(DataError, match=r"ids\.npy is missing"):
        PreferenceStore(folder, verify=verify)
    with pytest.raises(DataError, match="there is no such folder"):
        PreferenceStore(tmp_path / "other", verify=verify)


def test_a_store_of_the_other_kind_is_refused(tmp_path):
    write_preferences(tmp_path / "store")
    with pytest.raises(DataError, match="holds preferences where dialogues are needed"):
        DialogueStore(tmp_path / "store")


MILLION_ROWS = """
import sys
from pathlib import Path
import numpy as np
from zephyr.data.tokenize.token_store import DialogueStore, Dialogue, TokenWriter
ids, scored = np.arange(30), np.arange(30) > 20
with TokenWriter(Path(sys.argv[1]), "dialogues") as writer:
    for number in range(1_000_000):
        writer.add(Dialogue(f"chats.jsonl row {number}", ids[: 10 + number % 20], scored[: 10 + number % 20]))
store = DialogueStore(Path(sys.argv[1]))
assert len(store) == 1_000_000
assert sum(len(row.ids) for row in store) == store.num_tokens
status = Path("/proc/self/status").read_text()
print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its own peak memory")
def test_a_million_rows_are_written_and_read_in_little_memory(tmp_path):
    command = [sys.executable, "-c", MILLION_ROWS, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert int(done.stdout) < 1e9
