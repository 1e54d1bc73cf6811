"""How fast this machine's processor multiplies matrices in float32 and in bfloat16, measured in under a second.

A processor with matrix units (AMX) is several times as fast in bfloat16, one without a hundred times as slow.
"""

import time
from functools import cache
from typing import NamedTuple

import torch

# Matrices grow until a product takes so long; twice as large takes eight times as long.
LONG_SECONDS = 0.02
SMALLEST, LARGEST = 128, 2048
REPEATS = 3
# bfloat16 rounds away half of the digits, which must be worth it.
LEAST_GAIN = 1.5


class MatmulSpeed(NamedTuple):
    """Floating-point operations a second."""

    float32: float
    bfloat16: float

    @property
    def dtype(self) -> str:
        """The dtype to compute in where speed decides."""
        return "bfloat16" if self.bfloat16 >= LEAST_GAIN * self.float32 else "float32"


@cache
def matmul_speed() -> MatmulSpeed:
    """What was measured when it was first asked for."""
    return MatmulSpeed(_flops(torch.float32), _flops(torch.bfloat16))


def _flops(dtype: torch.dtype) -> float:
    size = SMALLEST
    while True:
        matrix = torch.ones(size, size, dtype=dtype)
        seconds = min(_seconds(matrix) for _ in range(REPEATS))
        if seconds > LONG_SECONDS or size == LARGEST:
            return 2 * size**3 / seconds
        size *= 2


def _seconds(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start
