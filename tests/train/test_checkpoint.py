"""Checkpoints are whole or not there, whatever kills their writer, and go back to the bit."""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.checkpoint_runs import (
    IDENTITY,
    assert_same,
    everything,
    fill,
    forked,
    make_training,
    save,
    save_two,
    save_until_killed,
    train_steps,
)
from zephyr import atomic
from zephyr.errors import CheckpointError, ResourceError
from zephyr.train.checkpoint.checkpoint import (
    Progress,
    checkpoint_folders,
    prune_checkpoints,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from zephyr.train.checkpoint.resume import load_latest

KINDS = ["adamw", "adamw-fused", "adamw-amsgrad", "rmsprop"]


@pytest.fixture
def run_folder(tmp_path):
    """A run with whole checkpoints of the steps 1 and 2."""
    save_two(tmp_path)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_equals_the_uninterrupted_one_to_the_bit(tmp_path, kind):
    training = make_training(kind)
    train_steps(training, 3)
    progress = Progress(3, 12, best_step=2, best_value=0.1 + 0.2, notes={"seed": 5, "order": [1, 2]})
    folder = save_checkpoint(tmp_path, training, progress=progress, identity=IDENTITY)
    saved = everything(training)
    train_steps(training, 3)

    other = make_training(kind, seed=9)
    other.optimizer.param_groups[0]["lr"] = 0.5
    other.model.frozen.load_state_dict(training.model.frozen.state_dict())  # known by the model's hash
    assert load_latest(tmp_path, other, identity=IDENTITY) == progress
    assert_same(everything(other), saved)
    train_steps(other, 3)
    assert_same(everything(other), everything(training))
    assert other.optimizer.param_groups[0]["lr"] == 1.0e-2
    assert type(other.optimizer.param_groups[0].get("betas", ())) is tuple
    assert names(folder) == [
        "extra-00000-of-00001.safetensors",
        "manifest.json",
        "model-00000-of-00001.safetensors",
        "optimizer-00000-of-00001.safetensors",
        "random-00000-of-00001.json",
        "state.json",
    ]


def test_bfloat16_weights_come_back_to_the_bit(tmp_path):
    training = make_training()
    training.model.bfloat16()
    train_steps(training, 2)
    save(tmp_path, training, 2)
    other = make_training(seed=3)
    other.model.bfloat16()
    load_latest(tmp_path, other, identity=IDENTITY)
    saved, loaded = everything(training), everything(other)
    assert saved["middle.weight.exp_avg"].dtype == torch.bfloat16
    for frozen in ("frozen.weight", "frozen.bias"):
        del saved[frozen], loaded[frozen]
    assert_same(loaded, saved)


def test_the_random_state_is_json_and_goes_back_to_the_bit():
    random.gauss(0, 1)
    np.random.standard_normal()  # noqa: NPY002
    state = json.loads(json.dumps(random_state()))

    def draw():
        return (
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(3).tolist(),  # noqa: NPY002
            torch.rand(3).tolist(),
        )

    first = draw()
    assert draw() != first
    restore_random_state(state)
    assert draw() == first


def test_a_parameter_that_was_never_touched_needs_no_state(tmp_path):
    training = make_training()
    save(tmp_path, training, 0)
    assert load_latest(tmp_path, training, identity=IDENTITY) == Progress(0)
    assert not training.optimizer.state


def test_state_that_no_file_can_hold_is_refused(tmp_path):
    training = make_training()
    training.optimizer.state[training.model.embed.weight]["odd"] = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(CheckpointError, match=r"odd of embed.weight is a Tensor of torch.complex64"):
        save(tmp_path, training, 1)
    assert names(tmp_path) == []


def test_pruning_keeps_the_last_and_the_best_and_never_the_only_whole_one(tmp_path):
    training = make_training()
    for step in range(1, 7):
        save(tmp_path, training, step)
    (tmp_path / "checkpoint-6" / "state.json").unlink()
    assert [path.name for path in prune_checkpoints(tmp_path, keep_last=2, best_step=1)] == [
        "checkpoint-3",
        "checkpoint-2",
    ]
    assert [path.name for path in checkpoint_folders(tmp_path)] == [f"checkpoint-{n}" for n in (6, 5, 4, 1)]
    with pytest.raises(ValueError, match="keep_last must be at least 1, got 0"):
        prune_checkpoints(tmp_path, keep_last=0)


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(run_folder):
    host = atomic._host()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = run_folder / f"checkpoint-3.partial-{host}-{dead.pid}"
    living = run_folder / f"checkpoint-3.partial-{host}-{os.getppid()}"
    foreign = run_folder / "checkpoint-3.partial-elsewhere-1"
    own = run_folder / "notes.partial-mine"
    for folder in (gone, living, foreign, own):
        folder.mkdir()
    save(run_folder, make_training(), 4)
    assert not gone.exists()
    assert living.is_dir()
    assert foreign.is_dir()
    assert own.is_dir()
    assert [path.name for path in checkpoint_folders(run_folder)] == [f"checkpoint-{n}" for n in (4, 2, 1)]


def test_a_checkpoint_killed_between_two_names_is_found(run_folder):
    folder = run_folder / "checkpoint-2"
    stand_in = folder.rename(run_folder / f"checkpoint-2.replaced-{atomic._host()}-999999999")
    assert checkpoint_folders(run_folder) == [stand_in, run_folder / "checkpoint-1"]
    training = make_training()
    assert load_latest(run_folder, training, identity=IDENTITY) == Progress(2)
    save(run_folder, training, 3)
    assert stand_in.is_dir()
    save(run_folder, training, 2)
    save(run_folder, training, 4)
    assert names(run_folder) == [f"checkpoint-{n}" for n in (1, 2, 3, 4)]


def assert_disk_error(run_folder, error, reason):
    written = Path(error.where)
    assert written.parent.name.startswith("checkpoint-3.partial-")
    assert error.what == f"the checkpoint of step 3 could not be written, got '{reason}'"
    assert error.remedy == "checkpoint-2 is kept; make room or repair the disk, then run again"
    assert names(run_folder) == ["checkpoint-1", "checkpoint-2"]
    assert load_latest(run_folder, make_training(), identity=IDENTITY) == Progress(2)


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path):
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        training = make_training()
        train_steps(training, 1)
        for step in (1, 2):
            save(tmp_path, training, step)
        large = training._replace(extra_tensors={"moving/reference": torch.zeros(200_000)})
        with pytest.raises(ResourceError) as caught:
            save(tmp_path, large, 3)
        assert_disk_error(tmp_path, caught.value, os.strerror(errno.ENOSPC))
        assert Path(caught.value.where).name == "extra-00000-of-00001.safetensors"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("limit", [10, 1_000, 2_000, 8_000])
def test_a_file_that_cannot_grow_names_itself_and_loses_nothing(run_folder, limit):
    training = make_training()
    train_steps(training, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ResourceError) as caught:
            save(run_folder, training, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_disk_error(run_folder, caught.value, os.strerror(errno.EFBIG))


def test_replacing_text_is_all_or_nothing(tmp_path):
    path = tmp_path / "log"
    atomic.replace_text(path, "one\n")
    atomic.replace_text(path, "two\n")
    assert path.read_text() == "two\n"
    assert names(tmp_path) == ["log"]


def test_a_text_that_cannot_be_written_names_its_own_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'[^']*nowhere/report\.html'$"):
        atomic.replace_text(tmp_path / "nowhere" / "report.html", "one\n")


def test_kills_at_random_moments_lose_no_finished_checkpoint(tmp_path):
    context = forked()
    moments = random.Random(7)
    training = make_training()
    expected = make_training()
    train_steps(expected, 1)
    step, kills, kills_within_a_save = 1, 0, 0
    while kills < 10 or kills_within_a_save < 3:  # otherwise this test has tested nothing
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=save_until_killed, args=(tmp_path, step, sender))
        worker.start()
        sender.close()
        announced = receiver.recv()  # the worker is warm now
        time.sleep(moments.uniform(0.0, 0.06))
        worker.kill()
        worker.join()
        kills += 1
        while receiver.poll():
            try:
                announced = receiver.recv()
            except EOFError:
                break
        kills_within_a_save += any(".partial-" in name for name in names(tmp_path))
        progress = load_latest(tmp_path, training, identity=IDENTITY)
        assert progress.step >= announced
        assert atomic.find_damage(checkpoint_folders(tmp_path)[0]) is None
        fill(expected, progress.step)
        loaded, wanted = everything(training), everything(expected)
        for frozen in ("frozen.weight", "frozen.bias", "moving/reference", "scratch"):
            loaded.pop(frozen, None), wanted.pop(frozen, None)
        assert_same(loaded, wanted)
        prune_checkpoints(tmp_path, keep_last=2)
        step = progress.step + 1
        assert kills < 100
