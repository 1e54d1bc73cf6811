"""A run that is killed at random moments ends, after reruns, as one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.pipeline.mini import mini_fields

KILLS = 12


def command(recipe):
    return [sys.executable, "-m", "zephyr.cli", "run", str(recipe), "--offline"]


def summary_of(folder):
    return json.loads((folder / "mini/summary.json").read_text())


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    recipes = {}
    for name in ("undisturbed", "killed"):
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(yaml.safe_dump(mini_fields(tmp_path / name)))
    began = time.monotonic()
    subprocess.run(command(recipes["undisturbed"]), check=True, capture_output=True, timeout=300)
    whole_seconds = time.monotonic() - began
    dice = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command(recipes["killed"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=dice.uniform(0.15, 0.6) * whole_seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= KILLS // 3
    last = subprocess.run(command(recipes["killed"]), check=True, capture_output=True, text=True, timeout=300)
    assert "error" not in last.stderr
    ours, theirs = summary_of(tmp_path / "killed"), summary_of(tmp_path / "undisturbed")
    assert ours["scores"] == theirs["scores"]
    assert ours["metrics"] == theirs["metrics"]


def test_an_interrupt_says_how_to_go_on(tmp_path):
    recipe = tmp_path / "mini.yaml"
    fields = mini_fields(tmp_path)
    fields["synth"]["generator"]["num_dialogues"] = 200_000
    recipe.write_text(yaml.safe_dump(fields))
    process = subprocess.Popen(command(recipe), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "synth" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "stopped; the same command goes on from here"
