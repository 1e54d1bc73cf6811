"""Loading and saving: what is whole comes back the same, and what is not is refused in words."""

import json
import os
import re
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.slowly import of_each_kind
from zephyr.errors import ModelError, ResourceError
from zephyr.models.loading import (
    check_finite_weights,
    check_token_ids,
    check_tokenizer,
    load,
    load_model,
    new_folder,
    save_model,
)
from zephyr.models.source import Source, resolved_revision
from zephyr.models.tiny import TINY, tiny_model, tiny_tokenizer
from zephyr.models.tokenizers import load_tokenizer
from zephyr.models.weight_hash import weights_hash
from zephyr.recipe.model_section import TrustedCodeSection

IDS = torch.arange(4, 24)[None]


@pytest.fixture
def saved(tmp_path) -> Path:
    folder = tmp_path / "model"
    save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), folder)
    return folder


def test_a_hub_id_is_resolved_to_its_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "models--someone--model"
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "snapshots" / commit / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolved_revision(Source("someone/model", offline=True)) == commit
    with pytest.raises(ModelError, match="someone/other"):
        resolved_revision(Source("someone/other", offline=True))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def edit_weights(folder: Path, name: str, change) -> None:
    weights = load_file(folder / "model.safetensors")
    changed = change(weights.pop(name))
    if changed is not None:
        weights[name] = changed
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def poison(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor.view(-1)[3] = value
    return tensor


# ---- round trip ----


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_saved_and_loaded_is_the_same_model(name, tmp_path):
    model, tokenizer = tiny_model(name, vocab_size=384), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path / "model")
    loaded = load(Source(str(tmp_path / "model"), offline=True), dtype="float32")
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert weights_hash(loaded.model) == weights_hash(model)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert loaded.tokenizer("Hello 🙂").input_ids == tokenizer("Hello 🙂").input_ids
    assert loaded.tokenizer.chat_template == tokenizer.chat_template


def test_a_saved_folder_is_plain_hugging_face(saved):
    names = {path.name for path in saved.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"tokenizer_config.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((saved / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert not [key for key in config if "attn_implementation" in key]
    assert names_in(saved.parent) == ["model"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype_by_name(saved, dtype):
    model = load_model(Source(str(saved), offline=True), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_unknown_dtype(saved):
    with pytest.raises(ModelError, match=r"^dtype: unknown name 'float23'; did you mean 'float32'\?; name one"):
        load_model(Source(str(saved)), dtype="float23")


# ---- what is refused ----


def test_pickled_weights_are_refused_unread(saved):
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match=r"holds pytorch_model\.bin but no safetensors; such files can run code"):
        load_model(Source(str(saved), offline=True))


def test_folder_without_weights(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors file"):
        load_model(Source(str(saved), offline=True))


def test_missing_folder_and_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere: there is no such folder; check the path$"):
        load_model(Source(str(tmp_path / "nowhere")))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(Source(str(tmp_path)))


def test_folder_of_a_run_names_its_newest_model(saved, tmp_path):
    run = tmp_path / "run"
    for age, stage in ((30, "sft-1"), (10, "align-2"), (0, ".align-3.partial")):
        shutil.copytree(saved, run / stage / "model")
        made = time.time() - age
        os.utime(run / stage / "model", (made, made))
    for folder in (run, run / "align-2"):
        with pytest.raises(ModelError, match=rf"name the folder with it; did you mean '{run}/align-2/model'\?$"):
            load_tokenizer(Source(str(folder)))


def test_folder_of_adapters_names_its_base_and_the_way_to_a_model(saved, tmp_path):
    adapter = tmp_path / "sft-1" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    said = f"{adapter}: holds LoRA adapters of the base model 'owner/base', and no model to start from; "
    merging = "PeftModel.from_pretrained(base, folder).merge_and_unload(), then save_pretrained"
    with pytest.raises(ModelError, match=f"^{re.escape(f'{said}merge them into it first: {merging}')}$"):
        load_tokenizer(Source(str(adapter)))
    shutil.copytree(saved, tmp_path / "sft-1" / "model")
    with pytest.raises(
        ModelError, match=f"^{re.escape(said)}name the merged model beside it, '{tmp_path}/sft-1/model'$"
    ):
        load_tokenizer(Source(str(adapter)))
    for content in ("{}", "["):
        (adapter / "adapter_config.json").write_text(content)
        with pytest.raises(ModelError, match=r"whose adapter_config\.json names no base model, and no model"):
            load_tokenizer(Source(str(adapter)))


def test_file_is_no_model(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(ModelError, match=r"recipe\.yaml: is a file, not a model folder; name the folder with its"):
        load_tokenizer(Source(str(tmp_path / "recipe.yaml")))


def test_hub_id_offline_that_is_not_cached():
    with pytest.raises(ModelError, match=r"^zephyr-tests/none: is not a folder, and its model is not in the local"):
        load_model(Source("zephyr-tests/none", offline=True))
    with pytest.raises(ModelError, match=r"its tokenizer is not in the local cache"):
        load_tokenizer(Source("zephyr-tests/none", offline=True))


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_first_weight_that_is_not_finite_is_named(saved, value, word):
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"):
        edit_weights(saved, name, lambda tensor: poison(tensor, value))
    expected = rf"its weight model\.layers\.0\.self_attn\.k_proj\.weight contains {word};"
    with pytest.raises(ModelError, match=expected):
        load_model(Source(str(saved), offline=True), dtype="float32")


def test_overflow_of_a_narrow_dtype_is_found(saved):
    edit_weights(saved, "model.norm.weight", lambda tensor: poison(tensor, 1e6))
    load_model(Source(str(saved), offline=True), dtype="float32")
    with pytest.raises(ModelError, match=r"its weight model\.norm\.weight contains infinity"):
        load_model(Source(str(saved), offline=True), dtype="float16")


def test_missing_weight_is_never_drawn_at_random(saved):
    edit_weights(saved, "model.layers.1.mlp.up_proj.weight", lambda tensor: None)
    with pytest.raises(
        ModelError, match=r"lacks 1 weights of its architecture, the first is model\.layers\.1\.mlp\.up"
    ):
        load_model(Source(str(saved), offline=True))


def test_weights_of_other_sizes(saved):
    edit_weights(saved, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[:-1].contiguous())
    with pytest.raises(ModelError, match="its model cannot be read"):
        load_model(Source(str(saved), offline=True))


def test_truncated_file(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its model cannot be read"):
        load_model(Source(str(saved), offline=True))


def test_code_in_a_model_folder_is_not_run(saved):
    config = json.loads((saved / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"},
    }
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ModelError, match=r"its model needs Python code that comes with it; read that code"):
        load_model(Source(str(saved), offline=True))


def test_code_is_trusted_for_one_revision_only():
    trusted = TrustedCodeSection(repository="owner/model", revision="abc123")
    assert Source("owner/model", revision="abc123", trusted_code=trusted).runs_own_code
    for source in (
        Source("owner/model", revision="main", trusted_code=trusted),
        Source("owner/model", trusted_code=trusted),
        Source("other/model", revision="abc123", trusted_code=trusted),
    ):
        assert not source.runs_own_code
        with pytest.raises(ModelError, match="code was allowed for owner/model at abc123"):
            load_model(source)
    assert not Source("owner/model").runs_own_code


# ---- tokenizers and ids ----


def test_tokenizer_with_more_ids_than_embeddings(tmp_path):
    model, tokenizer = tiny_model("llama", vocab_size=300), tiny_tokenizer()
    with pytest.raises(ModelError, match=r"makes ids up to 383 \(.*\), but the model has 300 embeddings"):
        check_tokenizer(model, tokenizer, "here")
    with pytest.raises(ModelError, match="300 embeddings"):
        save_model(model, tokenizer, tmp_path / "model")
    assert names_in(tmp_path) == []


def test_mismatched_tokenizer_on_loading(saved):
    tiny_tokenizer(vocab_size=400).save_pretrained(saved)
    with pytest.raises(ModelError, match=r"makes ids up to 399 .* 384 embeddings"):
        load(Source(str(saved), offline=True))


def test_embeddings_without_a_token_are_fine():
    check_tokenizer(tiny_model("llama", vocab_size=400), tiny_tokenizer(), "here")


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_ids_out_of_range(kind):
    check_token_ids(kind([0, 127]), 128, "row 17")
    with pytest.raises(ModelError, match=r"^row 17: token id 128 at position 2 is not in the vocabulary of 128;"):
        check_token_ids(kind([3, 127, 128, 500]), 128, "row 17")
    with pytest.raises(ModelError, match="token id -1 at position 0"):
        check_token_ids(kind([-1, 3]), 128, "row 17")


# ---- saving ----


def test_nothing_is_overwritten(saved):
    before = weights_hash(load_model(Source(str(saved)), dtype="float32"))
    with pytest.raises(ModelError, match=r"already exists, and is not overwritten; choose a new name"):
        save_model(tiny_model("mistral", vocab_size=384, seed=1), tiny_tokenizer(), saved)
    assert weights_hash(load_model(Source(str(saved)), dtype="float32")) == before


def test_interrupted_save_leaves_nothing(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "model") as partial:
            (partial / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names_in(tmp_path) == []


def test_full_disk_is_said_and_leaves_nothing(tmp_path):
    def write():
        with new_folder(tmp_path / "model"):
            raise OSError(28, "No space left on device", "model.safetensors")

    with pytest.raises(ResourceError, match=r"^model\.safetensors: the disk is full; nothing was saved"):
        write()
    assert names_in(tmp_path) == []


def test_files_cut_off_while_they_are_written_leave_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(Exception, match="too large"):
            save_model(tiny_model("mistral", vocab_size=384), tiny_tokenizer(), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names_in(tmp_path) == []


# ---- identity ----


def test_hash_sees_every_bit_name_and_dtype():
    model = tiny_model("gemma2")
    before = weights_hash(model)
    assert weights_hash(tiny_model("gemma2")) == before
    assert weights_hash(tiny_model("gemma2", dtype=torch.float64)) != before
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        kept = weight[0, 0].clone()
        weight[0, 0] = torch.nextafter(kept, kept + 1)
        assert weights_hash(model) != before
        weight[0, 0] = kept
    assert weights_hash(model) == before


def test_hash_counts_shapes_and_persistent_buffers_only():
    def module(shape, *, persistent):
        made = torch.nn.Module()
        made.weight = torch.nn.Parameter(torch.zeros(shape))
        made.register_buffer("counter", torch.tensor(3), persistent=persistent)
        return made

    with_buffer, without = module((2, 3), persistent=True), module((2, 3), persistent=False)
    assert len({weights_hash(with_buffer), weights_hash(without), weights_hash(module((3, 2), persistent=False))}) == 3
    changed = module((2, 3), persistent=True)
    changed.counter += 1
    assert weights_hash(changed) != weights_hash(with_buffer)
    without.counter += 1
    assert weights_hash(without) == weights_hash(module((2, 3), persistent=False))


def test_hash_is_independent_of_the_order_of_modules():
    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    forth, back = torch.nn.Module(), torch.nn.Module()
    forth.a, forth.b = first, second
    back.b, back.a = second, first
    assert weights_hash(forth) == weights_hash(back)
    back.a, back.b = second, first
    assert weights_hash(forth) != weights_hash(back)


def test_hash_of_nothing_real():
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="meta device"):
        weights_hash(empty)


def test_check_of_finite_weights_takes_whole_numbers_too():
    check_finite_weights({"a": torch.tensor([1, 2]), "b": torch.tensor([]), "c": torch.tensor([1.0])}, "here")


def test_copied_folder_loads_like_the_first(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    first, second = (load_model(Source(str(f)), dtype="float32") for f in (saved, tmp_path / "copy"))
    assert weights_hash(first) == weights_hash(second)
