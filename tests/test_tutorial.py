"""The tutorial keeps its word: its commands run one after the other in an empty folder, and fail where it says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```(\w+)( fails)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(repository, tmp_path):
    blocks = BLOCK.findall((repository / "docs" / "tutorial.md").read_text())
    assert sum(language == "sh" for language, _, _ in blocks) >= 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = {}
    for number, (language, fails, text) in enumerate(blocks):
        if language != "sh":
            continue
        done = subprocess.run(
            ["bash", "-eu", "-c", text],
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert bool(done.returncode) == bool(fails), f"{text}\n{done.stdout}\n{done.stderr}"
        said[number] = done
        if fails:
            # The block behind shows what is said.
            assert done.stderr == blocks[number + 1][2]
    runs = [done.stdout for done in said.values() if "runs/ferry" in done.stdout]
    assert runs[-1].count("skipped, finished") == 5 + 2
    assert "align.objective.beta was 0.1, is 0.3" in runs[-1]
