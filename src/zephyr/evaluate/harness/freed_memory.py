"""Memory that was taken and freed, given back to the system, so that the process's peak is what it needs."""

from __future__ import annotations

import ctypes
import platform
from functools import cache


def give_back() -> None:
    """Nothing; on Linux with glibc the process no longer holds what it has freed: some 20 MB behind tasks and model."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    is_glibc = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_glibc else None
