"""The script for the first minutes on a GPU goes through its motions on a CPU."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "attention-facts", "training-facts", "step-1b", "step-7b", "dpo-1b-beside-trl", "shared-prefix", "attention",
    "generation", "dpo-1b-long-prompts", "simulation",
)  # fmt: skip


def ended(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
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


SLEEPER = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
Path("child").write_text(str(child.pid))
print("a line", flush=True)
time.sleep(3600)
"""


def test_a_part_that_is_out_of_time_is_ended_with_what_it_started(tmp_path, monkeypatch):
    trial = imported("gpu_trial")
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setattr(trial, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    part = trial.Part("sleeper", 1, ("sleeper.py",))
    # Time runs out only once the child is there.
    wait, child = subprocess.Popen.wait, tmp_path / "child"

    def late(process, timeout=None):
        if timeout is None:
            return wait(process)
        while not (child.exists() and child.read_text() and (tmp_path / "sleeper.jsonl").read_text()):
            time.sleep(0.01)
        raise subprocess.TimeoutExpired("sleeper", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    ended = trial.run(part, tmp_path, 1, dry_run=False)
    assert ended["exit"] is None
    assert (tmp_path / "sleeper.jsonl").read_text() == "a line\n"
    while is_alive(int(child.read_text())):  # it has been told to end; for an hour otherwise
        time.sleep(0.01)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_all_parts_together_are_over_in_eight_minutes():
    trial = imported("gpu_trial")
    assert trial.TOTAL_LIMIT <= 480
    # What comes first has all its time, should everything before it take its own.
    assert sum(part.limit for part in trial.PARTS[:-1]) <= trial.TOTAL_LIMIT


def imported(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
