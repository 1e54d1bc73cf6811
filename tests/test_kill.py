"""A run that is killed at random moments ends, after reruns, as one that never was."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.mini import mini_fields

KILLS = 12


def command(recipe):
    return [sys.executable, "-m", "zephyr", "run", str(recipe), "--offline"]


def summary_of(folder):
    return json.loads((folder / "mini/summary.json").read_text())


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    recipes = {}
    for name in ("undisturbed", "killed"):
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(yaml.safe_dump(mini_fields(tmp_path / name)))
    began = time.monotonic()
    subprocess.run(command(recipes["undisturbed"]), check=True, capture_output=True, timeout=1200)
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
    last = subprocess.run(command(recipes["killed"]), check=True, capture_output=True, text=True, timeout=1200)
    assert "error" not in last.stderr
    ours, theirs = summary_of(tmp_path / "killed"), summary_of(tmp_path / "undisturbed")
    assert ours["scores"] == theirs["scores"]
    assert ours["metrics"] == theirs["metrics"]


GO_ON = "stopped in {}: what is finished is kept; the same command continues from there"
PROGRESS = re.compile(r"[\w -]+: step \d+ of \d+ ")


def interrupted(recipe, stage):
    """The exit code of a run that is interrupted when the stage has begun, and what it said to that.

    How far the work is may stand above, if it had begun.
    """
    process = subprocess.Popen(command(recipe), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if re.match(rf"{stage} +begins", line):
            process.send_signal(signal.SIGINT)
            break
    _, said = process.communicate(timeout=600)
    return process.returncode, [line for line in said.splitlines() if not PROGRESS.match(line)]


def test_an_interrupt_says_how_to_go_on(tmp_path):
    recipe = tmp_path / "mini.yaml"
    fields = mini_fields(tmp_path)
    fields["synth"]["generator"]["num_dialogues"] = 200_000
    recipe.write_text(yaml.safe_dump(fields))
    assert interrupted(recipe, "synth") == (130, [GO_ON.format("synth")])


@pytest.mark.slow
def test_every_stage_can_be_interrupted_and_gone_on_with(tmp_path):
    recipe = tmp_path / "mini.yaml"
    fields = mini_fields(tmp_path)
    fields["synth"]["generator"] |= {"num_dialogues": 20_000, "num_feedback_prompts": 200}
    for stage in ("pretrain", "sft", "align"):
        fields[stage]["train"] = fields[stage]["train"] | {"max_steps": 60}
    fields["evaluate"]["tasks"][0]["num_prompts"] = 300
    recipe.write_text(yaml.safe_dump(fields))
    for stage in ("synth", "pretrain", "sft", "feedback", "align", "evaluate"):
        assert interrupted(recipe, stage) == (130, [GO_ON.format(stage)])
    done = subprocess.run(command(recipe), check=True, capture_output=True, text=True, timeout=1200)
    assert done.stdout.count("skipped, finished") == 5
    assert summary_of(tmp_path)["scores"].keys() == {"base", "dSFT", "dDPO"}


# Kills itself at a moment that is counted and not timed: so many files of the run opened, tokens written, steps back.
COUNTING = """
import os, signal, sys, torch
from zephyr.cli.main import main
from zephyr.models.engine import DecodingEngine
moment, folder, counted = int(sys.argv.pop(1)), sys.argv.pop(1), 0

def count(event="", arguments=(folder,)):
    global counted
    if event in ("", "open", "os.rename") and str(arguments[0]).startswith(folder):
        counted += 1
        if counted == moment:
            os.kill(os.getpid(), signal.SIGKILL)

def counting(function):
    return lambda *given, **named: count() or function(*given, **named)

sys.addaudithook(count)
DecodingEngine.step, torch.Tensor.backward = counting(DecodingEngine.step), counting(torch.Tensor.backward)
try:
    main()
finally:
    print("counted", counted)
"""
NEVER = -1


def counted_run(recipe, moment):
    """A run that is killed at the moment, if it comes to it; counted from its own beginning."""
    words = [str(moment), str(recipe.parent), *command(recipe)[3:]]
    return subprocess.run([sys.executable, "-c", COUNTING, *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_rounds_that_are_killed_five_times_end_as_undisturbed_ones(tmp_path):
    recipes = {}
    for name in ("undisturbed", "killed"):
        fields = mini_fields(tmp_path / name)
        fields["rounds"] = {"count": 2}
        fields["synth"]["generator"]["num_feedback_prompts"] = 16  # 8 a round
        fields["feedback"]["candidates"]["models"] = ["stage:policy"]
        fields["evaluate"]["tasks"] = fields["evaluate"]["tasks"][:1]
        recipes[name] = tmp_path / name / "recipe.yaml"
        recipes[name].parent.mkdir()
        recipes[name].write_text(yaml.safe_dump(fields))
    whole = counted_run(recipes["undisturbed"], NEVER)
    num_moments = int(whole.stdout.split()[-1])
    dice, finished = random.Random(0), set()
    for _ in range(5):
        # At most five sixths of the moments in all, so that none of the five comes to its end.
        killed = counted_run(recipes["killed"], dice.randint(num_moments // 20, num_moments // 6))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(re.findall("skipped, finished", killed.stdout)) == len(finished)
        finished = {path.parent for path in (tmp_path / "killed/mini").glob("round-*/[a-z]*/stage.json")}
    last = counted_run(recipes["killed"], NEVER)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("skipped, finished") == len(finished) > 0
    ours, theirs = summary_of(tmp_path / "killed"), summary_of(tmp_path / "undisturbed")
    assert len(ours["rounds"]) == 2
    assert [(one["scores"], one["drift"]) for one in ours["rounds"]] == [
        (one["scores"], one["drift"]) for one in theirs["rounds"]
    ]
    assert ours["start"] == theirs["start"]
