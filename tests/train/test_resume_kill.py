"""A run that is killed again and again ends as if nobody had touched it, to the last bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, object]:
    """What a checkpoint says; JSON as values, for an optimizer that was restored lists its state in another order."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    return {name: json.loads(text) if name.endswith(".json") else text for name, text in files.items()}


def happened(folder: Path, num_epochs: int, num_ends: int, how: str) -> dict:
    """What killed_runs says of runs that it ended in this way."""
    # One thread: with several, sums may be split otherwise after a restart on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.killed_runs", str(folder), str(num_epochs), str(num_ends), how]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_ended_as_straight(folder: Path, ended: list[Path], num_epochs: int) -> None:
    """Check weights and log of the runs that were ended."""
    straight = folder / "straight"
    steps = [json.loads(line)["step"] for line in (straight / "train_log.jsonl").read_text().splitlines()]
    assert steps == [n for n in range(1, 3 * num_epochs + 1) if n % 2 == 0 or n % 3 == 0]
    assert ended
    for one in ended:
        for name in ("weights.safetensors", "train_log.jsonl"):
            assert (one / name).read_bytes() == (straight / name).read_bytes(), f"{one.name}/{name}"


@pytest.mark.parametrize(("num_epochs", "num_kills"), [(3, 2), pytest.param(10, 20, marks=pytest.mark.slow)])
def test_killed_runs_end_as_the_uninterrupted_one_to_the_bit(tmp_path, num_epochs, num_kills):
    """A tiny DPO run with evaluations, saved at every step, killed with SIGKILL at random moments."""
    told = happened(tmp_path, num_epochs, num_kills, "kill")
    assert told["kills"] >= num_kills
    assert told["within_a_save"] >= 1
    killed, straight = sorted(tmp_path.glob("killed-*")), tmp_path / "straight"
    check_ended_as_straight(tmp_path, killed, num_epochs)
    checkpoints = [path.name for path in sorted(straight.glob("checkpoint-*"))]
    for folder in killed:
        assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == checkpoints
        for name in checkpoints:
            assert contents(folder / name) == contents(straight / name), f"{folder.name}/{name}"


@pytest.mark.slow
def test_runs_that_are_told_to_end_save_their_step_and_end_as_the_uninterrupted_one(tmp_path):
    """Twenty times SIGTERM at random moments of runs that would save only at their end."""
    told = happened(tmp_path, 10, 20, "terminate")
    assert len(told["saved"]) == 20
    assert min(told["saved"]) >= 1
    check_ended_as_straight(tmp_path, sorted(tmp_path.glob("ended-*")), 10)
