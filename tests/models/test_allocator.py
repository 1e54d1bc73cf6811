"""Freed memory stays in the process: large blocks are cut from the heap, and the heap does not shrink."""

import platform
import subprocess
import sys

import pytest

from tests.train.checkpoint_runs import forked
from zephyr.models.few_rows import keep_freed_memory

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
