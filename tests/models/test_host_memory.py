"""Freed memory stays in the process, cut from a heap that does not shrink; what is mapped by itself goes back."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.checkpoint_runs import forked
from zephyr.models.host_memory import give_back_freed_memory, keep_freed_memory, new_mapped

PROGRAM = """
import ctypes, sys

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = libc.mallinfo2()
block = libc.malloc(40 << 20)
taken = libc.mallinfo2()
libc.free(block)
freed = libc.mallinfo2()
found = taken.hblkhd - before.hblkhd, freed.hblkhd - before.hblkhd, freed.arena - taken.arena
print(*found)
"""


def _keep(sender) -> None:
    assert keep_freed_memory()
    known: dict[str, object] = {}
    exec(PROGRAM, known)
    sender.send(known["found"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_a_freed_block_stays_in_the_heap() -> None:
    """Bytes mapped for a block apart from the heap, and after it is freed; change of the heap when it is freed."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    mapped, still_mapped, _ = map(int, told.stdout.split())
    assert mapped >= 40 << 20
    assert still_mapped == 0
    context = forked()  # in a child, so that the tests after this one have the allocator as it is
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_keep, args=(sender,))
    child.start()
    assert receiver.recv() == (0, 0, 0)
    child.join()


def _resident() -> int:
    """Bytes that the process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _keep_and_give_back(sender) -> None:
    keep_freed_memory()
    held = [torch.ones(1 << 18) for _ in range(200)]  # a MiB each
    last = held.pop()  # stands behind the others in the heap
    full = _resident()
    held.clear()
    kept = _resident()
    give_back_freed_memory()
    sender.send((full - kept, kept - _resident(), float(last.sum())))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_what_is_kept_can_be_given_back_between_stages() -> None:
    context = forked()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_keep_and_give_back, args=(sender,))
    child.start()
    freed, given_back, total = receiver.recv()
    child.join()
    assert freed < 20 << 20
    assert given_back > 180 << 20
    assert total == 1 << 18


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mapped memory is told by Linux alone")
def test_what_is_mapped_goes_back_to_the_system_when_it_is_freed():
    """64 KiB, which the C library would take from its heap, and keep there, are mapped no more."""

    def is_mapped(address):
        ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
        return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)

    mapped = new_mapped((1 << 10, 16), torch.ones(1))
    assert mapped.fill_(2.0).sum() == 2 << 14
    address = mapped.data_ptr()
    assert is_mapped(address)
    del mapped
    assert not is_mapped(address)
