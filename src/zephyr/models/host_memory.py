"""Memory of the process on a CPU: what it keeps for its next allocations, and what it gives back at once."""

import ctypes
import gc
import math
import mmap
import platform

import torch
from torch import Tensor

# Of <malloc.h>: how large a block must be to be mapped apart from the heap, and how much is free at its end.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Whether the process now keeps what it frees for its next allocations; it can on Linux with glibc only.

    A step of training or of decoding on the CPU frees and takes the same large blocks again and again. By default glibc
    returns them to the system each time, and the kernel clears every page anew: a tenth of a training step on the 56
    M-parameter benchmark shape. Peak memory stays what it was; between peaks the process holds on to it.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))


def give_back_freed_memory() -> None:
    """Return to the system what the process keeps free, as between stages, which differ in what they hold."""
    gc.collect()
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def new_mapped(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of this shape, of the dtype and device of ``like``; ``shape`` holds no 0.

    On a CPU it is mapped by itself, so that all of it goes back to the system when it is freed. From the heap, where
    large blocks of many sizes come and go, a process took five times what it held.
    """
    if like.device.type != "cpu" or not hasattr(mmap, "MAP_PRIVATE"):  # Windows has no such flags
        return like.new_empty(shape)
    memory = mmap.mmap(-1, math.prod(shape) * like.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)
