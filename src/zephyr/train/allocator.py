"""Keeping freed memory in the process, where giving it back costs time.

A training step on the CPU frees and takes the same large blocks again and again. By default glibc returns them to
the system each time, and the kernel clears every page anew: a tenth of a step on the 56 M-parameter benchmark shape.
"""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h, see mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Whether the process now keeps what it frees for its next allocations; it can on Linux with glibc only.

    Peak memory stays what it was; between peaks the process holds on to it.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
