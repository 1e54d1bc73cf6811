"""Models of strangers: whatever is wrong with their files is one line, in bounded time and memory, and runs nothing."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from zephyr.errors import ModelError
from zephyr.models.loading import empty_model, load
from zephyr.models.source import Source

BILLION = 10**9


def of(name, **fields):
    """The object in a JSON file with other values."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def index(*names):
    """The weights behind an index that names these files."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "decoy.safetensors")
        named = {key: names[number % len(names)] for number, key in enumerate(weights)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))

    return change


class Payload:
    """What would be run if a pickle of it were read."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def pickled(name):
    def change(folder):
        index(name)(folder)
        (folder / name).write_bytes(pickle.dumps(Payload()))

    return change


def pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def linked(name, target):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def header(raw):
    return lambda folder: (folder / "model.safetensors").write_bytes(raw)


def together(*changes):
    def change(folder):
        for one in changes:
            one(folder)

    return change


ADDED = {"version": "1.0", "added_tokens": [], "model": {"type": "Zzz"}}
#: What is done to a good model, and what the error says.
BROKEN = {
    "config is a list": (text("config.json", "[]"), "no JSON object"),
    "config is null": (text("config.json", "null"), "no JSON object"),
    "config is cut": (text("config.json", '{"model_type": "mist'), "not readable JSON"),
    "config is deep": (text("config.json", '{"a":' * 100_000), "not readable JSON"),
    "config is no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00{"), "not readable JSON"),
    "config is a pipe": (pipe("config.json"), "no"),
    "config is a link out": (linked("config.json", "/etc/passwd"), "link out"),
    "unknown type": (of("config.json", model_type="zzz"), "cannot be read"),
    "type is a list": (of("config.json", model_type=["mistral"]), "cannot be read"),
    "hidden size is a text": (of("config.json", hidden_size="32"), "cannot be read"),
    "no heads": (of("config.json", num_attention_heads=0, head_dim=None), "cannot be read"),
    "a billion layers": (of("config.json", num_hidden_layers=BILLION), "num_hidden_layers 1000000000, beyond"),
    "a billion experts": (of("config.json", model_type="mixtral", num_local_experts=BILLION), "beyond"),
    "a huge vocabulary": (of("config.json", vocab_size=BILLION), "vocab_size 1000000000, beyond"),
    "a large vocabulary": (of("config.json", vocab_size=60_000_000), "describes"),
    "more layers than weights": (of("config.json", num_hidden_layers=400), "describes|lacks"),
    "infinite size": (text("config.json", '{"model_type": "mistral", "hidden_size": Infinity}'), "beyond"),
    "weights of its own": (of("config.json", transformers_weights="../x.bin"), "names its weights itself"),
    "kernels of the hub": (of("config.json", attn_implementation="someone/kernels"), "names code of the hub"),
    "code of its own": (of("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}), "needs Python code"),
    "gptq without its package": (of("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "cannot"),
    "bnb without its package": (
        of("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "cannot",
    ),
    "quantisation is a list": (of("config.json", quantization_config=[]), "cannot|describes"),
    "an adapter beside it": (text("adapter_config.json", "{}"), "adapter beside the model"),
    "generation config is a list": (text("generation_config.json", "[]"), "no JSON object"),
    "tokenizer is a list": (text("tokenizer.json", "[]"), "no JSON object"),
    "tokenizer is cut": (text("tokenizer.json", '{"version": "1.0"'), "cannot be read"),
    "tokenizer of an unknown kind": (text("tokenizer.json", json.dumps(ADDED)), "cannot be read"),
    "tokenizer config is a list": (text("tokenizer_config.json", "[]"), "no JSON object"),
    "tokenizer config of odd types": (of("tokenizer_config.json", added_tokens_decoder=[1], eos_token=5), "cannot"),
    "a pickle behind an index": (pickled("weights.bin"), "no safetensors file in this folder"),
    "a pickle with another name": (pickled("weights.safetensors"), "no safetensors file"),
    "an index that climbs": (index("../model/decoy.safetensors"), "no safetensors file in this folder"),
    "an index with a root": (index("/etc/passwd.safetensors"), "no safetensors file in this folder"),
    "an index of numbers": (text("model.safetensors.index.json", '{"weight_map": {"a": 1}}'), "names 1"),
    "an index without names": (text("model.safetensors.index.json", "{}"), "weight_map"),
    "a shard that is missing": (index("decoy.safetensors", "gone.safetensors"), "is missing"),
    "a shard that is a link out": (
        together(index("decoy.safetensors", "out.safetensors"), linked("out.safetensors", "/etc/passwd")),
        "link out",
    ),
    "weights are a pipe": (pipe("model.safetensors"), "no plain file"),
    "weights are a device": (linked("model.safetensors", "/dev/zero"), "link out"),
    "weights are empty": (header(b""), "no safetensors file"),
    "a header of exabytes": (header(b"\xff" * 8 + b"{}"), "no safetensors file"),
    "a header that is a list": (header((2).to_bytes(8, "little") + b"[]"), "no safetensors file"),
    "a header of odd shapes": (header((23).to_bytes(8, "little") + b'{"a":{"shape":["x",-1]}'), "no safetensors file"),
    "weights are cut": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-64]),
        "cannot be read",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_one_line_and_runs_nothing(folder, name):
    change, reason = BROKEN[name]
    change(folder)
    with pytest.raises(ModelError, match=reason) as caught:
        load(Source(str(folder), offline=True), dtype="float32")
    assert "\n" not in str(caught.value)
    assert all(character.isprintable() for character in str(caught.value))
    assert not (folder.parent / "ran").exists()


def test_a_good_model_in_shards_and_links_of_the_hub_is_read(folder):
    weights = load_file(folder / "model.safetensors")
    blobs = folder.parent / "cache" / "blobs"
    snapshot = folder.parent / "cache" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    named = {}
    for number, half in enumerate(halves):
        save_file(half, blobs / f"{number}", metadata={"format": "pt"})
        (snapshot / f"model-{number}.safetensors").symlink_to(blobs / f"{number}")
        named |= dict.fromkeys(half, f"model-{number}.safetensors")
    for file in folder.glob("*.json"):
        shutil.copy(file, snapshot)
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))
    loaded = load(Source(str(snapshot), offline=True), dtype="float32")
    assert torch.equal(loaded.model.state_dict()["lm_head.weight"], weights["lm_head.weight"])


def test_a_configuration_alone_is_no_fault(folder):
    (folder / "model.safetensors").unlink()
    assert re.match("Mistral", type(empty_model(Source(str(folder), offline=True))).__name__)
