"""Freed memory stays in the process: large blocks are cut from the heap, and the heap does not shrink."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep":
    from zephyr.train.distributed import keep_freed_memory
    assert keep_freed_memory()
before = libc.mallinfo2()
block = libc.malloc(40 << 20)
taken = libc.mallinfo2()
libc.free(block)
freed = libc.mallinfo2()
print(taken.hblkhd - before.hblkhd, freed.hblkhd - before.hblkhd, freed.arena - taken.arena)
"""


def block_of_40_mib(mode: str) -> tuple[int, int, int]:
    """Bytes mapped for the block apart from the heap, and after it is freed; change of the heap when it is freed."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    mapped, still_mapped, grown = map(int, run.stdout.split())
    return mapped, still_mapped, grown


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_a_freed_block_stays_in_the_heap() -> None:
    mapped, still_mapped, _ = block_of_40_mib("as it is")
    assert mapped >= 40 << 20
    assert still_mapped == 0
    assert block_of_40_mib("keep") == (0, 0, 0)
