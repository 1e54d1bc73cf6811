"""The reference store keeps values to the bit, survives damage, kills and company, and trusts no file."""

import errno
import logging
import math
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.checkpoint_runs import forked
from tests.train.reference_runs import MODEL, append, key
from tests.train.tiny_runs import column, tiny_job
from zephyr import atomic
from zephyr.errors import ResourceError
from zephyr.train import reference_store
from zephyr.train.reference_store import ReferenceStore, sequence_key
from zephyr.train.train import train
from zephyr.trees.forest import ScoredSequence, completion_scored


def shards(store):
    return sorted(store.folder.glob("*.safetensors"))


def shards_of(folder):
    return sorted(folder.rglob("*.safetensors"))


def filled(folder, values, **dtype):
    store = ReferenceStore(folder, MODEL)
    store.add([key(n) for n in range(len(values))], np.array(values, **dtype))
    store.flush()
    return store


@given(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 15))
def test_keys_tell_sequences_apart(ids, mask_bits):
    def sequence(ids, bits):
        return ScoredSequence(np.array(ids, np.int64), np.array([bits >> n & 1 == 1 for n in range(len(ids))], bool))

    mine = sequence(ids, mask_bits)
    assert sequence_key(mine) == sequence_key(ScoredSequence(mine.ids.copy(), mine.scored.copy()))
    for other in (
        sequence([*ids, 0], mask_bits),
        sequence(ids[:-1], mask_bits),
        sequence(ids, mask_bits ^ 1),
    ):
        same = np.array_equal(mine.ids, other.ids) and np.array_equal(mine.scored, other.scored)
        assert (sequence_key(mine) == sequence_key(other)) is same


def test_prompt_is_part_of_the_key_by_what_is_scored():
    assert sequence_key(completion_scored([1, 2], [3])) != sequence_key(completion_scored([1], [2, 3]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_come_back_to_the_bit(tmp_path, dtype):
    values = np.array([-1 / 3, -1234.56789012345, -0.0, -np.finfo(dtype).tiny], dtype)
    filled(tmp_path, values, dtype=dtype)
    found = ReferenceStore(tmp_path, MODEL).get([key(n) for n in (3, 2, 1, 0)])
    assert found.dtype == np.float64
    assert found.astype(dtype).tobytes() == values[::-1].tobytes()


def test_nothing_is_on_the_disk_before_flush_and_one_shard_after(tmp_path):
    store = ReferenceStore(tmp_path, MODEL)
    store.add([key(0)], np.array([-1.0]))
    store.add([key(1), key(0), key(1)], np.array([-2.0, -9.0, -8.0], np.float32))
    assert (len(store), shards(store)) == (2, [])
    store.flush()
    store.flush()
    assert len(shards(store)) == 1
    again = ReferenceStore(tmp_path, MODEL)
    assert again.get([key(0), key(1)]).tolist() == [-1.0, -2.0]  # the first value stays
    assert again.missing([key(1), key(2)]) == {key(2)}


def test_references_do_not_mix(tmp_path):
    filled(tmp_path, [-1.0])
    other = ReferenceStore(tmp_path, "ffff")
    assert other.missing([key(0)]) == {key(0)}
    with pytest.raises(KeyError, match="1 of 1 sequences are not in the reference store"):
        other.get([key(0)])


def test_a_shard_of_another_reference_is_not_believed(tmp_path, caplog):
    (shard,) = shards(filled(tmp_path, [-1.0]))
    (tmp_path / "ffff").mkdir()
    (tmp_path / "ffff" / shard.name).write_bytes(shard.read_bytes())
    assert len(ReferenceStore(tmp_path, "ffff")) == 0
    assert "it belongs to another reference" in caplog.text


@pytest.mark.parametrize("place", ["header", "keys", "middle", "end", "cut", "empty", "grown"])
def test_a_damaged_shard_is_set_aside_and_said_aloud(tmp_path, caplog, place):
    store = filled(tmp_path, [-1.0, -2.0])
    (damaged,) = shards(store)
    store.add([key(2)], np.array([-3.0]))
    store.flush()
    content = bytearray(damaged.read_bytes())
    position = {"header": 12, "keys": content.index(key(0)), "middle": len(content) // 2, "end": -1}.get(place)
    if position is not None:
        content[position] ^= 1
    content = {"cut": content[:-5], "empty": b"", "grown": content + b"\0"}.get(place, content)
    damaged.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        again = ReferenceStore(tmp_path, MODEL)
    assert (
        f"{damaged} is damaged (its bytes have changed): its log-probs are not used but computed again" in caplog.text
    )
    assert again.missing([key(n) for n in range(3)]) == {key(0), key(1)}
    assert again.get([key(2)]).tolist() == [-3.0]
    assert not damaged.exists()
    assert damaged.with_name(f"{damaged.name}.damaged").exists()

    caplog.clear()
    again.add([key(0), key(1)], np.array([-1.0, -2.0]))
    again.flush()
    assert len(ReferenceStore(tmp_path, MODEL)) == 3
    assert caplog.text == ""


def test_a_file_that_is_whole_but_no_shard_is_not_read(tmp_path, caplog):
    store = ReferenceStore(tmp_path, MODEL)
    for content in (b"nonsense", reference_store.save({"keys": np.zeros((1, 16), np.uint8)})):
        (store.folder / f"{reference_store._digest(content)}.safetensors").write_bytes(content)
    store.refresh()
    assert len(store) == 0
    assert "no safetensors file" in caplog.text
    assert "(it holds keys)" in caplog.text


def test_two_stores_see_what_the_other_flushed(tmp_path):
    first, second = ReferenceStore(tmp_path, MODEL), ReferenceStore(tmp_path, MODEL)
    first.add([key(0)], np.array([-1.0]))
    first.flush(b"fill one")
    assert second.missing([key(0), key(1)]) == {key(1)}
    assert second.keys_from(b"fill one") == {key(0)}
    assert second.keys_from(b"fill two") == set()


def test_of_two_values_the_older_counts_for_all(tmp_path):
    first, second = ReferenceStore(tmp_path, MODEL), ReferenceStore(tmp_path, MODEL)
    first.add([key(0)], np.array([-1.0]))
    second.add([key(0)], np.array([-1.5]))
    first.flush()
    time.sleep(0.02)  # more than the clock of a file system may take to move on
    second.flush()
    late = ReferenceStore(tmp_path, MODEL)
    assert [store.get([key(0)]).tolist() for store in (first, second, late)] == [[-1.0]] * 3


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path, monkeypatch):
    store = ReferenceStore(tmp_path, MODEL)
    store.add([key(0)], np.array([-1.0]))

    def full(path, chunks):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(reference_store, "write_file", full)
        with pytest.raises(ResourceError) as caught:
            store.flush()
    assert str(caught.value).startswith(str(store.folder))
    assert "could not be stored, got 'No space left on device'" in str(caught.value)
    assert list(store.folder.iterdir()) == []
    store.flush()
    assert ReferenceStore(tmp_path, MODEL).get([key(0)]).tolist() == [-1.0]


@pytest.mark.parametrize(
    ("keys", "logps"),
    [
        ([key(0)], np.array([-1.0, -2.0])),
        ([key(0)], np.array([-1])),
        ([b"short"], np.array([-1.0])),
        ([key(0)], np.array([np.nan])),
        ([key(0)], np.array([-np.inf])),
    ],
)
def test_add_refuses_what_is_no_value(tmp_path, keys, logps):
    store = ReferenceStore(tmp_path, MODEL)
    with pytest.raises(ValueError, match="logps"):
        store.add(keys, logps)
    assert len(store) == 0


def test_what_a_dead_process_left_half_written_is_removed(tmp_path):
    folder = ReferenceStore(tmp_path, MODEL).folder
    dead = forked().Process(target=key, args=(0,))
    dead.start()
    dead.join()
    leftovers = [folder / f"abc.safetensors.partial-{atomic._host()}-{pid}" for pid in (dead.pid, os.getppid())]
    for leftover in leftovers:
        leftover.mkdir()
        (leftover / "abc.safetensors").write_bytes(b"half of it")
    assert len(ReferenceStore(tmp_path, MODEL)) == 0
    assert [leftover.exists() for leftover in leftovers] == [False, True]  # a living process may go on


@pytest.mark.parametrize("name", ["", "../elsewhere", "ABC", "g"])
def test_the_hash_cannot_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="hexadecimal"):
        ReferenceStore(tmp_path, name)


def test_processes_append_at_once_and_one_is_killed(tmp_path, caplog):
    go = forked().Event()
    processes = [forked().Process(target=append, args=(first, tmp_path, go)) for first in (0, 1000, 2000)]
    for process in processes:
        process.start()
    go.set()
    victim = processes.pop()
    reader = ReferenceStore(tmp_path, MODEL)
    while key(2002) not in reader.keys_from(b""):
        reader.refresh()
    victim.kill()
    for process in [victim, *processes]:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]

    store = ReferenceStore(tmp_path, MODEL)
    numbers = [*range(40), *range(1000, 1040)]
    assert store.get([key(n) for n in numbers]).tolist() == [-float(n) for n in numbers]
    assert len(store) == len(shards(store))
    assert {path.suffix for path in store.folder.iterdir()} == {".safetensors"}  # no leftover of the victim
    assert caplog.text == ""


def test_another_beta_reuses_the_reference(tmp_path, caplog):
    store = tmp_path / "store"
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(tiny_job(tmp_path / "one", reference_store=store))
        shards = shards_of(store)
        train(tiny_job(tmp_path / "two", reference_store=store, beta=0.5))
        train(tiny_job(tmp_path / "three", reference_store=store, beta=0.5, loss_type="ipo"))
    lines = [line for line in caplog.messages if line.startswith("reference log-probs")]
    assert [line.split(" in ")[0] for line in lines] == [
        "reference log-probs: 48 computed",
        *["reference log-probs: 0 computed"] * 2,
    ]
    assert all(line.endswith(" 48 reused") for line in lines[1:])
    assert shards_of(store) == shards
    assert column(tmp_path / "two", "loss")[0] == pytest.approx(math.log(2), abs=1e-6)


def test_a_damaged_shard_is_computed_again(tmp_path, caplog):
    store = tmp_path / "store"
    train(tiny_job(tmp_path / "one", reference_store=store))
    (shard,) = shards_of(store)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with caplog.at_level(logging.INFO, logger="zephyr"):
        train(tiny_job(tmp_path / "two", reference_store=store))
    assert column(tmp_path / "two", "loss") == column(tmp_path / "one", "loss")
    assert f"{shard} is damaged (its bytes have changed)" in caplog.text
    assert "reference log-probs: 48 computed" in caplog.text
