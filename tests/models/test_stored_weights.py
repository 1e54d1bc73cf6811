"""Weights read slice by slice are those that transformers loads, under all names and however the files cut them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.slowly import of_each_kind, slow
from zephyr.models import stored_weights as stored_weights_module
from zephyr.models.loading import empty_model, load_model, save_model, save_settings
from zephyr.models.source import Source
from zephyr.models.stored_weights import (
    FILE_BYTES,
    PART_BYTES,
    WeightsWriter,
    fill_buffers,
    names_to_write,
    parts,
    stored_hash,
    stored_weights,
)
from zephyr.models.tiny import TINY, tiny_model, tiny_tokenizer
from zephyr.models.weight_hash import weights_hash


def save(model, folder):
    save_model(model, tiny_tokenizer(), folder)
    return Source(str(folder))


@pytest.mark.parametrize("dtype", ["float32", slow("bfloat16")])
@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_every_slice_and_every_buffer_is_what_transformers_loads(name, dtype, tmp_path):
    source = save(tiny_model(name, vocab_size=384), tmp_path / "model")
    loaded, empty = load_model(source, dtype=dtype), empty_model(source, dtype=dtype)
    weights = stored_weights(source, empty)
    state = loaded.state_dict()
    assert weights.pieces.keys() == state.keys()
    for key, tensor in state.items():
        whole = torch.empty_like(tensor)
        weights.read(key, whole, [0] * tensor.ndim)
        assert torch.equal(whole, tensor), key
        for dim in range(tensor.ndim):
            start, length = tensor.shape[dim] // 3, tensor.shape[dim] // 2
            part = torch.empty_like(tensor.narrow(dim, start, length))
            weights.read(key, part, [start if place == dim else 0 for place in range(tensor.ndim)])
            assert torch.equal(part, tensor.narrow(dim, start, length)), (key, dim)
    fill_buffers(empty)
    expected = dict(loaded.named_buffers())
    for key, buffer in empty.named_buffers():
        if key not in state:
            assert buffer.dtype == expected[key].dtype, key
            assert torch.equal(buffer, expected[key]), key
    assert stored_hash(weights, empty) == weights_hash(loaded)


def test_weights_in_several_files_and_under_older_names_are_found(tmp_path):
    """As the hub has Mixtral: an index, and a tensor for each expert in any of the files."""
    model = tiny_model("mixtral", vocab_size=384)
    source = save(model, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in tensors
    halves = [dict(list(tensors.items())[half::2]) for half in (0, 1)]
    for number, half in enumerate(halves):
        save_file(half, tmp_path / "model" / f"part-{number}.safetensors", metadata={"format": "pt"})
    file.unlink()
    index = {key: f"part-{number}.safetensors" for number, half in enumerate(halves) for key in half}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    weights = stored_weights(source, empty_model(source, dtype="float32"))
    for key, tensor in model.state_dict().items():
        whole = torch.empty_like(tensor)
        weights.read(key, whole, [0] * tensor.ndim)
        assert torch.equal(whole, tensor), key
    shutil.move(tmp_path / "model" / "part-1.safetensors", tmp_path)
    assert stored_weights(source, empty_model(source)) is None


def test_large_tensors_are_read_in_parts_that_follow_their_memory():
    shape = (2, 3, PART_BYTES // 8)
    found = list(parts(shape, 4))
    assert found == [([expert, row, 0], [1, num, shape[2]]) for expert in (0, 1) for row, num in ((0, 2), (2, 1))]
    assert list(parts((7,), 4)) == [([0], [7])]
    assert list(parts((), 4)) == [([], [])]


def drop(tensors):
    del tensors["model.norm.weight"]


def add(tensors):
    tensors["model.other.weight"] = torch.zeros(2)


def cut(tensors):
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop, "model.norm.weight is stored 0 times"),
        (add, "model.other.weight is not a weight of the model"),
        (cut, "lm_head.weight has another shape than in the model"),
    ],
)
def test_what_is_unusual_is_left_to_transformers_and_said(change, reason, tmp_path, caplog):
    source = save(tiny_model("mistral", vocab_size=384), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    assert stored_weights(source, empty_model(source)) is None
    assert caplog.messages == [f"{source.name}: rank 0 reads all weights and sends them to the others, for {reason}"]


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_weights_written_one_by_one_are_the_files_of_save_pretrained(name, tmp_path):
    """The same names and numbers in one file and in many; of those of a tied model and of stacked experts, too."""
    model = tiny_model(name, vocab_size=384)
    save(model, tmp_path / "whole")
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for folder, file_bytes in ((tmp_path / "one", FILE_BYTES), (tmp_path / "many", 20_000)):
        folder.mkdir()
        writer, state = WeightsWriter(model, folder, file_bytes=file_bytes), model.state_dict()
        for key in names_to_write(model):
            writer.add(key, state[key])
        writer.close()
        save_settings(model, tiny_tokenizer(), folder)
        files = sorted(folder.glob("*.safetensors"))
        found = {key: tensor for file in files for key, tensor in load_file(file).items()}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
        assert weights_hash(load_model(Source(str(folder)), dtype="float32")) == weights_hash(model)
        for settings in (tmp_path / "whole").glob("*.json"):
            assert (folder / settings.name).read_text() == settings.read_text()
    assert len(files) > 1
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())


def test_weights_that_are_stored_together_are_not_written_one_by_one(monkeypatch):
    def joined(_model, state):
        if len(state) == 1:
            raise ValueError("the other half is missing")
        return {"both": torch.empty(1)}

    monkeypatch.setattr(stored_weights_module, "revert_weight_conversion", joined)
    assert names_to_write(tiny_model("llama")) is None
