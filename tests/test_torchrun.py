"""A run over two processes ends as one of a single process does."""

import json
import os
import subprocess
import sys

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
    done = subprocess.run([*command, str(recipe)], check=True, capture_output=True, text=True, timeout=300, env=quiet)
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
