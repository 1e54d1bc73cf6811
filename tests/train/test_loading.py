"""Several ranks read a stored model: each its own part, to the bit, and it trains as on one."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.distributed_runs import on_ranks
from tests.train.loading_runs import hash_of, read_shards, save_mixtral, save_tiny, train_stored
from zephyr.models.loading import load_model
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


@pytest.mark.parametrize(
    ("name", "tied", "lora"),
    [
        ("gemma3_text", True, None),
        pytest.param("mixtral", False, None, marks=pytest.mark.slow),
        ("mixtral", False, LoraSection(r=2)),
        pytest.param("llama", False, LoraSection(r=2, modules_to_save=["lm_head"]), marks=pytest.mark.slow),
        pytest.param("llama", False, LoraSection(r=2, use_dora=True), marks=pytest.mark.slow),
    ],
)
def test_two_ranks_that_read_their_shards_train_as_one_that_reads_all(tmp_path, name, tied, lora, monkeypatch):
    save_tiny(tmp_path / "base", name, tied=tied)
    train_stored(tmp_path, tmp_path / "base", lora)
    if lora is None or not lora.use_dora:  # no rank builds a whole model
        monkeypatch.setattr(stored_model, "built_on_rank_zero", None)
    on_ranks(2, tmp_path, train_stored, tmp_path / "base", lora)
    alone, together = (
        [json.loads(line) for line in (tmp_path / folder / TRAIN_LOG).read_text().splitlines()]
        for folder in ("on-1", "on-2")
    )
    assert len(alone) == len(together) > 0
    for left, right in zip(alone, together, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-6)
    one, two = (load_model(Source(str(tmp_path / folder / "model")), dtype="float32") for folder in ("on-1", "on-2"))
    for (key, left), right in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.allclose(left, right, atol=1e-6), key
