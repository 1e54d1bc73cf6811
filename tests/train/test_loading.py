"""Several ranks read a stored model: each its own part, to the bit, and it trains as on one."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.slowly import slow
from tests.train.distributed_runs import make_examples, on_ranks
from tests.train.loading_runs import hash_of, merge_shards, read_shards, save_mixtral, save_tiny, train_stored
from zephyr.models.loading import load_model
from zephyr.models.reward_model import load_reward_model
from zephyr.models.source import Source
from zephyr.recipe.train_section import LoraSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train import stored_model


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak memory")
def test_no_rank_holds_much_more_than_its_share_of_a_mixture(tmp_path):
    save_mixtral(tmp_path / "warm-up", intermediate=16)
    save_mixtral(tmp_path / "model", intermediate=1536)
    on_ranks(4, tmp_path, read_shards, "warm-up", "model")
    found = [json.loads((tmp_path / f"read-{number}.json").read_text()) for number in range(4)]
    expected = hash_of(tmp_path / "model")
    assert {one["read"] for one in found} == {one["held"] for one in found} == {expected}
    total = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert total > 300e6
    assert max(one["taken"] for one in found) < 1.3 * total / 4, [one["taken"] / total for one in found]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak memory")
def test_adapters_are_merged_in_much_less_than_the_model(tmp_path):
    save_mixtral(tmp_path / "warm-up", intermediate=16)
    save_mixtral(tmp_path / "model", intermediate=1536)
    on_ranks(1, tmp_path, merge_shards, "warm-up", "model")
    found = json.loads((tmp_path / "merged.json").read_text())
    # The largest weight, what is added to it as it is multiplied and scaled, and the one written before it.
    assert found["taken"] < 4.5 * found["largest"] < 0.75 * found["total"], found


@pytest.mark.parametrize(
    ("name", "tied", "lora", "objective"),
    [
        ("gemma3_text", True, None, "dpo"),
        slow("mixtral", False, None, "dpo"),
        ("mixtral", False, LoraSection(r=2), "dpo"),
        slow("llama", False, LoraSection(r=2, modules_to_save=["lm_head"]), "dpo"),
        slow("gemma3_text", True, LoraSection(r=2, modules_to_save=["lm_head"]), "dpo"),
        slow("llama", False, LoraSection(r=2, use_dora=True), "dpo"),
        slow("llama", False, None, "bradley_terry"),
        slow("mistral", False, LoraSection(r=2), "bradley_terry"),
    ],
)
def test_two_ranks_that_read_their_shards_train_as_one_that_reads_all(
    tmp_path, name, tied, lora, objective, monkeypatch
):
    save_tiny(tmp_path / "base", name, tied=tied)
    train_stored(tmp_path, tmp_path / "base", lora, objective)
    on_shards(monkeypatch, tmp_path, lora, objective)
    if not (tied and lora):  # of a tied pair one was trained in full, and the model is merged in memory
        assert_alike(tmp_path, load_model if objective == "dpo" else load_reward_model)


def on_shards(monkeypatch, folder, *options):
    """Train on two ranks, of which none may build a whole model."""
    monkeypatch.setattr(stored_model, "built_on_rank_zero", None)
    on_ranks(2, folder, train_stored, folder / "base", *options)


def assert_alike(folder, load):
    alone, together = (
        [json.loads(line) for line in (folder / ranks / TRAIN_LOG).read_text().splitlines()]
        for ranks in ("on-1", "on-2")
    )
    assert len(alone) == len(together) > 0
    for left, right in zip(alone, together, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-6)
    one, two = (folder / ranks / "model" for ranks in ("on-1", "on-2"))
    left, right = (load(Source(str(model)), dtype="float32").state_dict() for model in (one, two))
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        assert torch.allclose(tensor, right[key], atol=1e-6), key
    for name in ("config.json", "generation_config.json"):
        assert (one / name).exists() == (two / name).exists()
        if (one / name).exists():
            assert json.loads((one / name).read_text()) == json.loads((two / name).read_text())


@pytest.mark.slow
def test_a_model_that_becomes_a_better_reward_model_keeps_its_head(tmp_path, monkeypatch):
    save_tiny(tmp_path / "first", "llama")
    train_stored(tmp_path, tmp_path / "first", None, "bradley_terry")
    (tmp_path / "on-1" / "model").rename(tmp_path / "base")
    shutil.rmtree(tmp_path / "on-1")
    train_stored(tmp_path, tmp_path / "base", None, "bradley_terry")
    on_shards(monkeypatch, tmp_path, None, "bradley_terry")
    assert_alike(tmp_path, load_reward_model)


@pytest.mark.slow
def test_another_reference_is_read_in_shards_too(tmp_path, monkeypatch):
    save_tiny(tmp_path / "base", "llama")
    save_tiny(tmp_path / "reference", "mistral")
    train_stored(tmp_path, tmp_path / "base")
    on_shards(monkeypatch, tmp_path)
    assert_alike(tmp_path, load_model)
    (first, *_) = [json.loads(line) for line in (tmp_path / "on-2" / TRAIN_LOG).read_text().splitlines()]
    assert first["loss"] != pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("lora", [slow(None), LoraSection(r=2)], ids=["whole", "lora"])
def test_what_is_written_stops_where_answers_end(tmp_path, lora):
    save_tiny(tmp_path / "base", "llama")
    stop = int(make_examples("dpo", 7)[0].completions[0][-1])
    train_stored(tmp_path, tmp_path / "base", lora, stop_ids=[stop])
    settings = json.loads((tmp_path / "on-1" / "model" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["do_sample"]) == ([stop], True)
