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


@pytest.mark.parametrize(("num_epochs", "num_kills"), [(4, 3), pytest.param(10, 20, marks=pytest.mark.slow)])
def test_killed_runs_end_as_the_uninterrupted_one_to_the_bit(tmp_path, num_epochs, num_kills):
    """A tiny DPO run with evaluations, saved at every step, killed with SIGKILL at random moments."""
    # One thread: with several, sums may be split otherwise after a restart on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.killed_runs", str(tmp_path), str(num_epochs), str(num_kills)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= num_kills
    assert told["within_a_save"] >= 1
    straight = tmp_path / "straight"
    steps = [json.loads(line)["step"] for line in (straight / "train_log.jsonl").read_text().splitlines()]
    assert steps == [n for n in range(1, 3 * num_epochs + 1) if n % 2 == 0 or n % 3 == 0]
    killed = sorted(tmp_path.glob("killed-*"))
    assert killed
    for folder in killed:
        for name in ("weights.safetensors", "train_log.jsonl"):
            assert (folder / name).read_bytes() == (straight / name).read_bytes(), f"{folder.name}/{name}"
        checkpoints = [path.name for path in sorted(straight.glob("checkpoint-*"))]
        assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == checkpoints
        for name in checkpoints:
            assert contents(folder / name) == contents(straight / name), f"{folder.name}/{name}"
