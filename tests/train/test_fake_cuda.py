"""Every kind of training takes its tensors to a CUDA device in the right place and dtype, and seldom waits for it.

The device is a pretence (`fake_cuda.cpp`): a build of torch without CUDA gets one, on which no kernel runs.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("fake_cuda.cpp")
# How often the host may wait: for the log-probs of a reference's pass, in a step, for the numbers of its log line, and
# for the next token of all samples that are written together.
BUDGET = {"reference": 1, "step": 0, "line": 1, "token": 1}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a CUDA of its own"),
    pytest.mark.skipif(shutil.which("c++") is None or sys.platform != "linux", reason="needs Linux and a C++ compiler"),
]


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The library that pretends; it must be there before torch is."""
    made, torch_folder = tmp_path_factory.mktemp("device") / "device.so", Path(torch.__file__).parent
    command = ["c++", "-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include", str(SOURCE), "-o", str(made)]
    command += [f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True)
    return made


@pytest.mark.parametrize("architecture", ["mistral", "llama", "qwen3", "gemma", "mixtral"])
def test_no_step_is_refused_by_a_device_or_waits_for_it(device, architecture):
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"LD_PRELOAD": str(device), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.fake_steps", architecture]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.returncode == 0, found.stderr
    assert len(lines) >= 9
    assert [line for line in lines if "error" in line] == []
    for line in lines:
        waits = {part: sum(line[part].values()) for part in BUDGET if part in line}
        assert all(waits[part] <= BUDGET[part] for part in waits), line
        assert waits.get("line", 1) == waits.get("token", 1) == 1, line  # so a wait is seen where there is one
