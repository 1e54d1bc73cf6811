"""Freed memory stays in the process: what is taken again touches no new page."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from zephyr.train.allocator import keep_freed_memory
    assert keep_freed_memory()
def work():
    first = torch.ones(10 << 20)
    second = first * 2
    return float((first + second).sum())
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator can be told on glibc only")
def test_pages_are_cleared_once() -> None:
    pages = 5 * 3 * (40 << 20) // 4096
    assert page_faults("as it is") > pages // 2
    assert page_faults("keep") < pages // 50
