"""A disk that is full in the middle of a run: it is said which file, and the last checkpoint is there to go on from."""

import dataclasses
import errno
import os
import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.train.tiny_runs import logged, tiny_job
from zephyr.errors import ResourceError
from zephyr.models.tiny import tiny_model
from zephyr.train import train as loop
from zephyr.train.checkpoint.checkpoint import whole_checkpoints
from zephyr.train.train import train


@contextmanager
def small_disk(folder, size):
    """A file system of its own; the test is skipped where none can be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_names_the_file_and_keeps_the_last_checkpoint(tmp_path):
    """A checkpoint of this model takes 340 kB: two fit, and the third is written before one is removed."""
    folder = tmp_path / "disk"
    with small_disk(folder, "900k"):
        job = tiny_job(folder, save_steps=1)
        with pytest.raises(ResourceError) as caught:
            train(job)
        said = str(caught.value)
        assert f"{folder}/checkpoint-3.partial-" in said
        assert f"the checkpoint of step 3 could not be written, got '{os.strerror(errno.ENOSPC)}'" in said
        assert "checkpoint-2 is kept; make room or repair the disk, then run again" in said
        assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-2", "checkpoint-1"]
        shutil.rmtree(folder / "checkpoint-1")
        again = tiny_job(folder, save_steps=4, save_total_limit=1)
        assert train(again).step == 6
        assert [line["step"] for line in logged(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_cannot_grow_names_itself_and_keeps_the_last_checkpoint(tmp_path):
    job = tiny_job(tmp_path, save_steps=1)
    train(dataclasses.replace(job, model=tiny_model("mistral"), folder=tmp_path / "whole"))
    log = tmp_path / "whole" / "train_log.jsonl"
    three_lines = sum(len(line) for line in log.read_bytes().splitlines(keepends=True)[:3])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    gradients = loop.accumulate_gradients
    num_steps = 0

    def limited(scorer, batch, settings):
        nonlocal num_steps
        num_steps += 1
        if num_steps == 4:
            # All later checkpoints are smaller than the limit, so that it hits the log alone.
            resource.setrlimit(resource.RLIMIT_FSIZE, (three_lines + 10, before[1]))
        return gradients(scorer, batch, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "accumulate_gradients", limited)
        try:
            with pytest.raises(ResourceError) as caught:
                train(job)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/train_log.jsonl: the log could not be written, got '")
    assert whole_checkpoints(tmp_path)[0].name == "checkpoint-3"
    assert train(tiny_job(tmp_path, save_steps=1)).step == 6
    assert logged(tmp_path) == logged(tmp_path / "whole")
