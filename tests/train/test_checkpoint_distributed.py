"""Checkpoints of sharded trainings: two ranks write one folder, and one, two or three read it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.train.checkpoint_runs import assert_same, fail_on_rank, forked, run_rank
from zephyr.train.checkpoint.checkpoint import whole_checkpoints


def run_ranks(target, world, folder, mode):
    """Runs `target` on gloo ranks, each a forked process; all must end well."""
    ranks = [forked().Process(target=target, args=(rank, world, folder, mode)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * world


def load(folder: Path, name: str):
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoint that two ranks saved after two steps, and what they held."""
    folder = tmp_path_factory.mktemp("two-ranks")
    run_ranks(run_rank, 2, folder, "save")
    return folder


def test_two_ranks_write_one_whole_folder_without_pickles(saved):
    (folder,) = whole_checkpoints(saved / "run")
    ranks = ("00000-of-00002", "00001-of-00002")
    groups = [f"{group}-{rank}.safetensors" for group in ("model", "optimizer") for rank in ranks]
    expected = {*groups, *(f"random-{rank}.json" for rank in ranks), "state.json", "manifest.json"}
    # What all ranks hold alike is written by one of them.
    assert expected < {path.name for path in folder.iterdir()}
    assert len({path.name for path in folder.iterdir()} - expected) == 1
    assert json.loads((folder / "state.json").read_text())["world_size"] == 2
    for rank, rows in zip(ranks, (4, 3), strict=True):
        with safe_open(folder / f"model-{rank}.safetensors", "pt") as file:
            assert file.get_slice("embed.weight").get_shape() == [rows, 5]
    assert [path.name for path in (saved / "run").iterdir()] == ["checkpoint-2"]


def test_two_ranks_go_on_to_the_bit(saved):
    run_ranks(run_rank, 2, saved, "resume")
    for rank in (0, 1):
        assert_same(load(saved, f"loaded-2-{rank}"), load(saved, f"saved-{rank}"))
        assert_same(load(saved, f"resume-end-2-{rank}"), load(saved, f"save-end-2-{rank}"))


@pytest.mark.parametrize("world", [1, 3])
def test_another_number_of_ranks_reads_the_same_state(saved, world):
    run_ranks(run_rank, world, saved, "resume")
    for rank in range(world):
        assert_same(load(saved, f"loaded-{world}-{rank}"), load(saved, "saved-0"))


def test_a_rank_that_cannot_write_stops_all_and_the_last_checkpoint_stays(tmp_path):
    run_ranks(fail_on_rank, 2, tmp_path, "fail")
    said = (tmp_path / "said").read_text()
    assert "-00001-of-00002.safetensors: the checkpoint of step 2 could not be written, got 'File too" in said
    assert said.endswith("checkpoint-1 is kept; make room or repair the disk, then run again")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-1"]
