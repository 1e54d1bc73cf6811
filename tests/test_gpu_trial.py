"""The script for the first minutes on a GPU goes through its motions on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def ended(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["facts", "step-1b", "step-7b", "attention", "generation", "simulation"])
def test_every_part_of_the_trial_runs_dry(tmp_path, part):
    found = ended("benchmarks/gpu_trial.py", "--out", tmp_path, "--dry-run", "--only", part)
    said = (tmp_path / f"{part}.log").read_text()
    assert found.returncode == 0, said
    lines = [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
    assert lines
    assert [line for line in lines if not line["ok"]] == []


@pytest.mark.slow
def test_gpu_train_runs_dry(tmp_path):
    pytest.importorskip("trl", reason="the peer is not installed")
    report = tmp_path / "report.json"
    found = ended("benchmarks/gpu_train.py", "--dry-run", "--json", report)
    assert found.returncode == 0, found.stderr
    assert json.loads(report.read_text())["dry_run"] is True
