"""What is published of a folder, and what is refused: half-written models, keys, paths of a machine."""

import json
from pathlib import Path

import pytest

from zephyr.deliver.push_files import files_of
from zephyr.errors import ZephyrError

CARD = "---\nlibrary_name: transformers\n---\n"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "README.md").write_text(CARD)
    return made


def names(found):
    return [one.name for one in found.uploads]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trained in /home/alice/models", "README.md, line 4: holds a path of a machine, '/home/alice'"),
        (r"from C:\Users\bob\x", "README.md, line 4: holds a path of a machine"),
        ("see file:///data", "README.md, line 4: holds a path of a machine"),
        ("token hf_" + "b" * 34, "README.md, line 4: holds a key; take it out, and revoke it"),
        ("sk-proj-" + "c" * 30, "README.md, line 4: holds a key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "README.md, line 4: holds a key"),
        ("the secret of this test", "README.md, line 4: holds a key"),
    ],
)
def test_keys_and_paths_are_refused_with_their_line(folder, tmp_path, monkeypatch, line, said):
    monkeypatch.setenv("SOME_API_KEY", "secret of this test")
    (folder / "README.md").write_text(CARD + line)
    with pytest.raises(ZephyrError) as caught:
        files_of(folder, tmp_path)
    assert said in str(caught.value)
    assert names(files_of(folder, tmp_path, exclude=["README.md"])) == ["config.json", "model.safetensors"]


def test_addresses_and_relative_paths_are_no_paths_of_a_machine(folder, tmp_path):
    (folder / "README.md").write_text(CARD + "https://example.org/home/alice docs/home/x runs/a/root 1/2 and/or")
    assert names(files_of(folder, tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_paths_of_a_models_folder_are_taken_out(folder, tmp_path):
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "/home/alice/base", "hidden_size": 8}))
    found = files_of(folder, tmp_path)
    (config,) = [one for one in found.uploads if one.name == "config.json"]
    assert json.loads(config.content) == {"hidden_size": 8}
    assert found.notes == ["rewritten: config.json, without paths of this machine"]


def test_an_adapter_names_its_base_by_hub_id(folder, tmp_path):
    (folder / "config.json").unlink()
    settings = {"base_model_name_or_path": str(tmp_path), "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ZephyrError, match="push that model first and name it: --base OWNER/NAME"):
        files_of(folder, tmp_path)
    found = {one.name: one.content for one in files_of(folder, tmp_path, base="me/base").uploads}
    assert json.loads(found["adapter_config.json"]) == {"base_model_name_or_path": "me/base", "r": 8}
    assert found["README.md"].startswith(b"---\nbase_model: me/base\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors.partial-host-1", "is not finished: it has model.safetensors.partial-host-1"),
        ("model.safetensors.index.json", "has no b.safetensors, which its index names"),
    ],
)
def test_a_half_written_model_is_refused(folder, tmp_path, name, said):
    (folder / name).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "b.safetensors"}}))
    with pytest.raises(ZephyrError, match=said):
        files_of(folder, tmp_path)


def test_what_is_nothing_to_publish(tmp_path):
    for place, said in ((tmp_path, "is no run, model, adapter or folder of rows"), (tmp_path / "x", "no such folder")):
        with pytest.raises(ZephyrError, match=said):
            files_of(place, tmp_path)
    work = tmp_path / ".align-1.partial"
    work.mkdir()
    with pytest.raises(ZephyrError, match="is not finished"):
        files_of(work, tmp_path)


def test_rows_whose_types_differ_stay_json(tmp_path):
    pytest.importorskip("pyarrow")
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "one"}\n')
    found = files_of(file, tmp_path)
    assert names(found) == ["README.md", "rows/train-00000-of-00001.jsonl"]
    assert found.notes == ["rows.jsonl stays JSON: the types of a column differ between its rows"]
    file.write_text('{"text": "a", "r": {}}\n{"text": "b", "r": {"x": 1.0}}\n')
    assert names(files_of(file, tmp_path)) == ["README.md", "rows/train-00000-of-00001.parquet"]


def test_a_key_in_a_row_is_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": "hf_' + "d" * 34 + '"}\n')
    with pytest.raises(ZephyrError, match=r"rows\.jsonl, line 2: holds a key"):
        files_of(file, tmp_path)
    file.write_text('{"text": "ls /home/alice"}\n')
    assert len(files_of(file, tmp_path).uploads) == 2
    file.write_text(json.dumps({"text": f"{Path.home()}/x"}) + "\n")
    with pytest.raises(ZephyrError, match="holds a path of a machine"):
        files_of(file, tmp_path)
