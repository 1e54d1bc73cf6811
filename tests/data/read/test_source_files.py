"""The files of a source: the layouts of data sets, and the names of splits that decide which files are read."""

import pytest

from zephyr.data.read.source_files import locate
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource

ULTRACHAT = [f"{split}-00000-of-00001.jsonl" for split in ("test_gen", "test_sft", "train_gen", "train_sft")]


@pytest.fixture
def folder(tmp_path):
    """A function that puts empty files into the data folder."""

    def put(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return put


def found(folder, path, **settings):
    files = locate(DataSource(path=path, **settings), folder)
    return [file.relative_to(folder).as_posix() for file in files]


def refusal(folder, path, **settings):
    with pytest.raises(DataError) as caught:
        locate(DataSource(path=path, **settings), folder)
    return str(caught.value).replace(f"{folder}/", "")


def test_test_files_are_not_read_by_default(folder):
    where = folder(*(f"chats/{name}" for name in ULTRACHAT))
    assert refusal(where, "chats") == (
        "chats: no file is named after the split 'train', there are test_gen, test_sft, train_gen, train_sft; "
        "write split: train_gen or split: train_sft; split: all reads every file"
    )
    assert found(where, "chats", split="train_sft") == ["chats/train_sft-00000-of-00001.jsonl"]
    assert found(where, "chats", split="test_sft[:10%]") == ["chats/test_sft-00000-of-00001.jsonl"]
    assert len(found(where, "chats", split="all")) == 4


@pytest.mark.parametrize(
    ("names", "split", "taken"),
    [
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["train-00000-of-00002-a1b2c3d4e5f60718.parquet", "test-0.jsonl"], "train", [0]),
        (["train-0.jsonl", "train-1.jsonl", "validation.csv.gz"], "validation", [2]),
        (["alpaca_v1.5_train.jsonl", "alpaca_v1.5_test.jsonl"], "alpaca_v1.5_test", [1]),
        (["test-extra.jsonl", "train.jsonl"], "test", [0]),
        (["train.en.jsonl", "test.en.jsonl"], "train", [0]),
        # Without a name of a split all files are train; one that says so is no reason to leave the others.
        (["a.jsonl", "b.jsonl"], "train", [0, 1]),
        (["protest.jsonl", "interval.jsonl", "dolly_train_small.jsonl"], "train", [0, 1, 2]),
    ],
)
def test_names_of_files_are_names_of_splits(folder, names, split, taken):
    where = folder(*(f"set/{name}" for name in names))
    assert sorted(found(where, "set", split=split)) == sorted(
        f"set/{names[one] if isinstance(one, int) else one}" for one in taken
    )


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        (["a.jsonl", "b_test.jsonl"], "train", "there are a, b_test; write split: a or split: b_test"),
        (["train_sft.jsonl", "train_gen.jsonl"], "train", "write split: train_gen or split: train_sft"),
        (["train.jsonl", "test.jsonl"], "tst", "no file is named after the split 'tst', there are test, train; "),
        (["train-0.jsonl", "train-1.jsonl"], "test", "there are train; write split: train"),
    ],
)
def test_a_split_without_a_file_is_refused_with_the_list(folder, names, split, said):
    assert said in refusal(folder(*(f"set/{name}" for name in names)), "set", split=split)


def test_a_file_is_one_split(folder):
    where = folder("d.jsonl", "test_sft-00000-of-00001.parquet")
    assert refusal(where, "d.jsonl", split="test[:20%]") == (
        "d.jsonl: is a single file, which has no split 'test'; "
        "write split: train[:20%], or give the file of split 'test'"
    )
    for split in ("train[:90%]", "all"):
        assert found(where, "d.jsonl", split=split) == ["d.jsonl"]
    for split in ("train", "test_sft", "test_sft[5:]"):
        assert found(where, "test_sft-00000-of-00001.parquet", split=split) == ["test_sft-00000-of-00001.parquet"]


def test_a_glob_names_its_files_itself_unless_a_split_chooses_among_them(folder):
    where = folder(*(f"set/{name}" for name in ULTRACHAT))
    assert len(found(where, "set/*.jsonl")) == 4
    assert found(where, "set/*.jsonl", split="test_gen") == ["set/test_gen-00000-of-00001.jsonl"]
    assert "no file is named after the split 'test'" in refusal(where, "set/*.jsonl", split="test")


def test_the_layouts_of_the_hub_are_read(folder):
    where = folder("a/README.md", "a/data/train-0.jsonl", "a/data/test-0.jsonl")
    assert found(where, "a") == ["a/data/train-0.jsonl"]
    where = folder("b/train/0.jsonl", "b/train/1.jsonl", "b/validation/0.jsonl")
    assert found(where, "b") == ["b/train/0.jsonl", "b/train/1.jsonl"]
    assert found(where, "b", split="validation") == ["b/validation/0.jsonl"]
    where = folder("c/data/all/train-0.jsonl", "c/data/all/test-0.jsonl", "c/data/mathe/train-0.jsonl")
    assert found(where, "c", config="all", split="test") == ["c/data/all/test-0.jsonl"]
    assert "there are alpaca_eval, drop; name one" in refusal(folder("f/alpaca_eval/a.jsonl", "f/drop/a.jsonl"), "f")
    assert refusal(where, "c") == (
        "c: has data files in subfolders only, there are all, mathe; name one of them as config"
    )
    assert "c: has no subfolder 'math' with data files, there are all, mathe; did you mean 'mathe'?" in refusal(
        where, "c", config="math"
    )


def test_a_folder_without_data_says_what_is_there(folder):
    assert "the folder has no data files" in refusal(folder("e/README.md"), "e")
