"""Data sets of the hub, through a stand-in of its library."""

import sys
from types import SimpleNamespace

import pytest

from zephyr.data.read.sources import open_source, source_hash
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = f"hf://datasets/owner/chats@{COMMIT}/data/train-00000.parquet"


class DatasetsError(Exception):
    pass


class Table(list):
    info = SimpleNamespace(download_checksums={ADDRESS: {}})


@pytest.fixture
def hub(monkeypatch):
    """The calls of load_dataset; it knows one data set of ten rows."""
    calls = []

    def load_dataset(path, name=None, *, split, revision, streaming):
        assert not streaming
        calls.append((path, name, split, revision))
        if path == "owner/broken":
            raise DatasetsError("a file of it is damaged")
        if path != "owner/chats":
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub")
        return Table({"prompt": str(number), "completion": "yes"} for number in range(10))

    library = SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_HUB_OFFLINE=False))
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", SimpleNamespace(DatasetsError=DatasetsError))
    return calls


def test_rows_come_from_the_split_and_its_slice(hub, tmp_path):
    source = DataSource(path="owner/chats", split="train_sft[:30%]", config="en", revision="v1")
    records = open_source(source, "chat", data_dir=tmp_path, offline=False)
    assert hub == [("owner/chats", "en", "train_sft", "v1")]
    assert [record.name for record in records] == [f"owner/chats:train_sft row {number}" for number in (1, 2, 3)]
    assert records[2].messages[0].content == "2"


def test_the_hash_is_that_of_the_commit(hub, tmp_path):
    by_branch = source_hash(DataSource(path="owner/chats", revision="main"), tmp_path)
    assert by_branch == source_hash(DataSource(path="owner/chats", revision=COMMIT), tmp_path)
    assert by_branch != source_hash(DataSource(path="owner/chats", revision=COMMIT[::-1]), tmp_path)


def test_what_the_hub_does_not_have_is_refused(hub, tmp_path):
    with pytest.raises(
        DataError, match=r"^owner/chat: cannot be loaded from the hub \(.*FileNotFoundError.*; check the name"
    ):
        open_source(DataSource(path="owner/chat"), "chat", data_dir=tmp_path, offline=False)
    with pytest.raises(
        DataError, match=r"^owner/chat: is neither a local file nor in the hub.s cache.*; run once without offline"
    ):
        open_source(DataSource(path="owner/chat"), "chat", data_dir=tmp_path, offline=True)


def test_errors_of_the_library_are_said(hub, tmp_path):
    with pytest.raises(DataError, match=r"cannot be loaded from the hub \(.*DatasetsError: a file of it is damaged"):
        open_source(DataSource(path="owner/broken"), "chat", data_dir=tmp_path, offline=False)


def test_a_folder_here_comes_before_the_hub(hub, tmp_path):
    (tmp_path / "owner").mkdir()
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(DataSource(path="owner/chats"), "chat", data_dir=tmp_path, offline=False)
    assert hub == []


@pytest.mark.parametrize("path", ["chats", "owner/chats.jsonl", "./owner/chats", "a/b/c", "owner/chats.csv.gz"])
def test_what_cannot_be_a_data_set_is_looked_for_here_alone(hub, tmp_path, path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(DataSource(path=path), "chat", data_dir=tmp_path, offline=False)
    assert hub == []


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets; pip install 'zephyr-align\[hub\]'"):
        open_source(DataSource(path="owner/chats"), "chat", data_dir=tmp_path, offline=False)


def test_the_library_itself_refuses_offline_what_it_does_not_have(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"nor in the hub.s cache"):
        open_source(DataSource(path="nobody-here/nothing-at-all"), "chat", data_dir=tmp_path, offline=True)
