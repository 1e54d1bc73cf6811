"""Products of few rows the other way round, which makes decoding on a CPU with AMX faster.

A step of decoding multiplies a few rows with all weights. oneDNN's kernels for AMX are made for many rows: with the
weight as the first factor, and the rows as the second, most products of 1 to 128 rows in bfloat16 take half to nine
tenths as long. Without AMX they take up to three times as long.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rows up to which the other way round is faster, by the widths of a 135 M-parameter model (Xeon with AMX).
MAX_FEW = 128
# Layers whose output goes through elementwise functions alone into the next product, which reads it by columns.
BY_COLUMNS = ("gate_proj", "up_proj")


@cache
def has_amx() -> bool:
    """Whether the processor has matrix units for bfloat16; told on Linux only."""
    told = Path("/proc/cpuinfo")
    return told.is_file() and "amx_bf16" in told.read_text()


@contextmanager
def fast_for_few_rows(model: nn.Module) -> Iterator[None]:
    """Within the block, the model's bfloat16 linear layers on a CPU with AMX multiply few rows the other way round."""
    layers = {name: module for name, module in model.named_modules() if has_amx() and _is_turned(module)}
    for name, layer in layers.items():
        layer.__dict__["forward"] = _turned(layer, by_columns=name.endswith(BY_COLUMNS))
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.__dict__["forward"]


def _is_turned(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a plain linear layer; a bias would be rounded apart, and a forward of its own is somebody's."""
    if type(module) is not nn.Linear or module.bias is not None or "forward" in module.__dict__:
        return False
    return module.weight.dtype == torch.bfloat16 and module.weight.device.type == "cpu"


def _turned(layer: nn.Linear, *, by_columns: bool) -> Callable[[Tensor], Tensor]:
    """What the layer computes; `by_columns`: of few rows the output's columns are contiguous, not its rows."""

    def forward(given: Tensor) -> Tensor:
        weight, before = layer.weight, given.shape[:-1]
        num_rows = math.prod(before)
        if given.dtype != weight.dtype or not 0 < num_rows <= MAX_FEW:
            return functional.linear(given, weight)
        if num_rows == 1:
            return torch.mv(weight, given.flatten()).view(*before, -1)
        product = (weight @ given.reshape(num_rows, -1).T).T
        return (product if by_columns else product.contiguous()).view(*before, -1)

    return forward
