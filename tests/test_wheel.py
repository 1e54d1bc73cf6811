"""The wheel alone, in a fresh environment beside the packages it needs: recipes, a check, a run, the Python API."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.evaluation.harness.small_data import small_data

pytestmark = pytest.mark.slow
# Nothing that leads to the source tree.
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
RUN = [
    "synth.generator.num_dialogues=60",
    "synth.generator.num_pretrain_texts=20",
    "synth.generator.num_feedback_prompts=20",
]


@pytest.fixture(scope="module")
def python(tmp_path_factory, repository) -> Path:
    """The Python of an environment that has the wheel, and sees this one's packages but not the source tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    # By sys.path alone: .pth files of that folder, such as the one of an editable install, are not read.
    (site / "packages.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return python


def said(python, folder, *words):
    command = [str(python.parent / "zephyr"), *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=ALONE).stdout


def test_the_wheel_works_without_the_source_tree(python, tmp_path, repository):
    ask = [python, "-c", "import zephyr; print(zephyr.__file__)"]
    assert str(repository) not in subprocess.run(ask, check=True, capture_output=True, text=True, env=ALONE).stdout
    assert "quickstart" in said(python, tmp_path, "recipes", "list")
    said(python, tmp_path, "recipes", "copy", "quickstart", ".")
    assert "sft" in said(python, tmp_path, "check", "quickstart.yaml", "--offline")
    assert "synth" in said(python, tmp_path, "run", "quickstart.yaml", "--offline", "--until", "synth", *RUN)
    script = 'import zephyr; print(zephyr.run("quickstart.yaml", until="synth", quiet=True).stages["synth"])'
    done = subprocess.run([python, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True, env=ALONE)
    assert "synth-" in done.stdout


def test_every_function_of_the_api_runs_in_ten_lines(python, tiny_folder, tmp_path, repository):
    for library in ("datasets", "lm_eval"):
        pytest.importorskip(library)
    shutil.copytree(tiny_folder, tmp_path / "model")
    small_data(tmp_path / "data")
    scripts = sorted((repository / "examples/python").glob("*.py"))
    assert len(scripts) == 8
    assert all(len(script.read_text().splitlines()) <= 14 for script in scripts)
    code = "import runpy, sys; [runpy.run_path(script) for script in sys.argv[1:]]"
    done = subprocess.run(
        [python, "-c", code, *scripts], cwd=tmp_path, capture_output=True, text=True, env=ALONE, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/quickstart").is_dir()


def test_the_loss_of_the_how_to_trains(python, tiny_folder, tmp_path, repository):
    page = (repository / "docs/how-to/custom-loss.md").read_text()
    (tmp_path / "my_loss.py").write_text(
        re.search(r"```python title=\"my_loss.py\"\n(.*?)```", page, re.DOTALL).group(1)
    )
    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"No idea about {n}."} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    objective = re.search(r"objective: \{name: custom.*\}", page).group()
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nmodel: {{kind: pretrained, name_or_path: {tiny_folder}}}\nalign:\n  {objective}\n"
        "  data: {max_length: 64, sources: [{path: pairs.jsonl}]}\n"
        "  train: {learning_rate: 1.0e-3, train_batch_size: 4, precision: float32}\n"
    )
    said(python, tmp_path, "check", "mine.yaml", "--offline")
    said(python, tmp_path, "run", "mine.yaml", "--offline")
    (outcome,) = tmp_path.glob("runs/mine/align-*/outcome.json")
    assert json.loads(outcome.read_text())["weights_moved"] > 0.1
