"""Resuming goes on from the newest whole checkpoint, and refuses what does not belong."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.checkpoint_runs import (
    IDENTITY,
    assert_same,
    everything,
    forked,
    load_without_pickle,
    make_training,
    save_two,
)
from zephyr import atomic
from zephyr.errors import CheckpointError
from zephyr.train.checkpoint.checkpoint import (
    Progress,
    whole_checkpoints,
)
from zephyr.train.checkpoint.resume import load_latest


@pytest.fixture
def run_folder(tmp_path):
    """A run with whole checkpoints of the steps 1 and 2."""
    save_two(tmp_path)
    return tmp_path


def test_a_folder_without_checkpoints_is_a_fresh_start(tmp_path):
    assert load_latest(tmp_path, make_training(), identity=IDENTITY) is None
    assert load_latest(tmp_path / "absent", make_training(), identity=IDENTITY) is None


def test_nothing_in_a_checkpoint_is_a_pickle(run_folder):
    for path in (run_folder / "checkpoint-2").iterdir():
        assert path.suffix in {".json", ".safetensors"}
        if path.suffix == ".json":
            json.loads(path.read_text())
    worker = forked().Process(target=load_without_pickle, args=(run_folder, 2))
    worker.start()
    worker.join()
    assert worker.exitcode == 0


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path):
    path.write_text(path.read_text().replace('"step": 2', '"step": 7'))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def link(path):
    elsewhere = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(elsewhere)


MODEL = "model-00000-of-00001.safetensors"


OPTIMIZER = "optimizer-00000-of-00001.safetensors"


DAMAGES = [
    (flip_a_byte, MODEL, "does not have the SHA-256"),
    (flip_a_byte, OPTIMIZER, "does not have the SHA-256"),
    (flip_a_byte, "random-00000-of-00001.json", "does not have the SHA-256"),
    (edit, "state.json", "does not have the SHA-256"),
    (cut, OPTIMIZER, "has 1010 bytes where manifest.json says 2020"),
    (Path.unlink, MODEL, "is missing"),
    (Path.unlink, "state.json", "is missing"),
    (Path.unlink, "manifest.json", "is missing"),
    (cut, "manifest.json", "cannot be read as a manifest"),
    (link, OPTIMIZER, "is a symbolic link"),
]


@pytest.mark.parametrize(("damage", "name", "words"), DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_last_whole_one_taken(run_folder, damage, name, words, caplog):
    damage(run_folder / "checkpoint-2" / name)
    training = make_training()
    with caplog.at_level(logging.WARNING):
        assert load_latest(run_folder, training, identity=IDENTITY) == Progress(1)
    assert f"{run_folder / 'checkpoint-2'} is damaged" in caplog.text
    assert f"{name} {words}" in caplog.text
    assert float(training.optimizer.state[training.model.embed.weight]["exp_avg"][0, 0]) == 1.0
    assert whole_checkpoints(run_folder) == [run_folder / "checkpoint-1"]


def test_when_no_checkpoint_is_whole_training_does_not_start_anew(run_folder):
    flip_a_byte(run_folder / "checkpoint-1" / MODEL)
    (run_folder / "checkpoint-2" / OPTIMIZER).unlink()
    with pytest.raises(CheckpointError) as caught:
        load_latest(run_folder, make_training(), identity=IDENTITY)
    assert str(caught.value) == (
        f"{run_folder}: none of its checkpoints is whole (checkpoint-2: {OPTIMIZER} is missing;"
        f" checkpoint-1: {MODEL} does not have the SHA-256 that manifest.json says);"
        " restore the files, or start in another run folder"
    )


def test_a_linked_checkpoint_and_a_tensor_file_nobody_vouches_for_are_refused(run_folder):
    folder = run_folder / "checkpoint-2"
    shutil.copy(folder / MODEL, folder / "more.safetensors")
    assert atomic.find_damage(folder) == "more.safetensors is not in manifest.json"
    moved = (run_folder / "checkpoint-1").rename(run_folder / "moved")
    (run_folder / "checkpoint-1").symlink_to(moved)
    assert atomic.find_damage(run_folder / "checkpoint-1") == "checkpoint-1 is a symbolic link"


def test_a_manifest_cannot_point_out_of_its_folder(run_folder):
    path = run_folder / "checkpoint-2" / "manifest.json"
    path.write_text(path.read_text().replace('"state.json"', '"../state.json"'))
    assert "which is not a file of its folder" in atomic.find_damage(path.parent)


@pytest.mark.parametrize("hashed", ["data_hash", "recipe_hash", "model_hash"])
def test_another_run_is_refused_by_field_and_both_values(run_folder, hashed):
    training = make_training(seed=4)
    before = everything(training)
    with pytest.raises(CheckpointError) as caught:
        load_latest(run_folder, training, identity=IDENTITY._replace(**{hashed: "other"}))
    assert str(caught.value) == (
        f"{run_folder / 'checkpoint-2' / 'state.json'}: identity.{hashed} is '{hashed[0]}1', got 'other' for"
        " this run; start in another run folder, or bring back what the checkpoint was made with"
    )
    assert_same(everything(training), before)


def vouch_for(folder, without=()):
    """Makes a manifest for what lies in the folder now, as a hand that edits checkpoints might."""
    for name in without:
        (folder / name).unlink()
    (folder / "manifest.json").unlink()
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    partial = atomic.partial_folder(folder)
    records = {name: atomic.write_file(partial / name, [data]) for name, data in content.items()}
    atomic.publish(partial, folder, records)


def test_missing_optimizer_state_is_never_a_fresh_optimizer(run_folder):
    folder = run_folder / "checkpoint-2"
    vouch_for(folder, without=[OPTIMIZER])
    with pytest.raises(CheckpointError) as caught:
        load_latest(run_folder, make_training(), identity=IDENTITY)
    assert caught.value.where == str(folder / "optimizer-*.safetensors")
    assert caught.value.what.startswith("9 tensors are missing, such as optimizer/")

    state = json.loads((folder / "state.json").read_text())
    del state["optimizer"]
    (folder / "state.json").write_text(json.dumps(state))
    vouch_for(folder)
    with pytest.raises(CheckpointError, match=r"state\.json: optimizer is missing; a new optimizer would change"):
        load_latest(run_folder, make_training(), identity=IDENTITY)


def test_another_optimizer_or_shape_is_refused(run_folder):
    with pytest.raises(CheckpointError, match="holds the state of AdamW, the run uses RMSprop"):
        load_latest(run_folder, make_training("rmsprop"), identity=IDENTITY)
    wide = make_training()._replace(extra_tensors={"moving/reference": torch.zeros(4)})
    with pytest.raises(CheckpointError, match=r"extra/moving/reference is torch.float32 of shape \(3,\), got"):
        load_latest(run_folder, wide, identity=IDENTITY)


def test_other_versions_are_said_aloud(run_folder, caplog, monkeypatch):
    monkeypatch.setattr(np, "__version__", "1.0")
    load_latest(run_folder, make_training(), identity=IDENTITY)
    assert "was made with numpy" in caplog.text
    assert "got 1.0 here" in caplog.text
