"""AdamW that computes in float32 and stores less: moments of a byte or in bfloat16, and weights in bfloat16.

A moment of a byte is one of 256 numbers between -1 and 1, times the largest of its block: 256 neighbours of one row.
FSDP2 cuts parameters between rows, so no block is cut, and the steps are the same on any number of ranks.

What is stored in bfloat16 is rounded up or down at random, so that it is right on average. Rounded to the nearest, an
update below half of the last of its eight bits, such as 5e-7 of a weight of 0.02, would be lost at every step.

Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861; stochastic rounding of bfloat16
weights: Zamirai et al., Revisiting BFloat16 Training, arXiv 2010.06192.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.optim import Optimizer

BLOCK_WEIGHTS = 256
# Smaller tensors, and vectors, keep their moments in float32: they need the digits and cost little.
FEWEST_WEIGHTS = 4096
# Weights that are updated together: what is computed in float32 stays small beside a large parameter.
CHUNK_WEIGHTS = 1 << 23
_DECADES = 7
# bfloat16 is the upper half of a float32.
_LOWER_BITS = 1 << 16
MomentKind: TypeAlias = Literal["byte", "bfloat16"]
# By the name of a moment, whether it can be negative.
_MOMENTS = {"exp_avg": True, "exp_avg_sq": False}


class _Step(NamedTuple):
    """The number of a step, from 1, and its settings."""

    number: int
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class CompactAdamW(Optimizer):
    """AdamW with small moments; a checkpoint can store its state, sharded as the parameters are.

    The random numbers of a step depend on its number alone, so that a resumed run draws the same.
    """

    def __init__(
        self,
        params: Iterable[dict[str, list[Tensor] | float]],
        moments: MomentKind,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._moments = moments
        self._codes: dict[torch.device, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient, in place; a ``closure`` is not taken."""
        assert closure is None, "Adam evaluates nothing again"
        every = ((group, parameter) for group in self.param_groups for parameter in group["params"])
        for index, (group, parameter) in enumerate(every):
            if parameter.grad is not None:
                state = self.state[parameter]
                if not state:
                    state.update({"step": 0, **_fresh_moments(parameter, self._moments)})
                state["step"] += 1
                step = _Step(state["step"], group["lr"], group["betas"], group["eps"], group["weight_decay"])
                self._update(parameter, step, _rng(parameter, index, step.number))

    def _update(self, parameter: Tensor, step: _Step, rng: torch.Generator) -> None:
        moments = {name: value for name, value in self.state[parameter].items() if isinstance(value, Tensor)}
        # `view` fails where it would have to copy, and the copy would be updated in place of the parameter.
        rows = {name: _rows(_local(tensor)) for name, tensor in (moments | {"parameter": parameter}).items()}
        codes = self._codes_on(parameter.device) if self._moments == "byte" else {}
        rows["gradient"] = _rows(_local(parameter.grad).contiguous())
        num_rows = max(1, CHUNK_WEIGHTS // rows["parameter"].shape[1])
        for part in zip(*(torch.split(tensor, num_rows) for tensor in rows.values()), strict=True):
            _adamw(dict(zip(rows, part, strict=True)), codes, step, rng)

    def _codes_on(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._codes:
            self._codes[device] = {name: code(signed=signed).to(device) for name, signed in _MOMENTS.items()}
        return self._codes[device]


def _rows(tensor: Tensor) -> Tensor:
    """A view (rows, width) of a tensor of any shape."""
    return tensor.view(-1, tensor.shape[-1]) if tensor.ndim else tensor.view(1, 1)


def _local(tensor: Tensor | None) -> Tensor:
    """The part of a tensor of any shape that this rank holds."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _rng(parameter: Tensor, index: int, step_number: int) -> torch.Generator:
    """The generator for stochastic rounding: one for each parameter, step and shard."""
    part = parameter.device_mesh.get_rank() if isinstance(parameter, DTensor) else 0
    seed = (step_number * 1_000_003 + index) * 1_000_003 + part
    return torch.Generator(parameter.device).manual_seed(seed % (1 << 62))


def _fresh_moments(parameter: Tensor, kind: MomentKind) -> dict[str, Tensor]:
    """Both moments, 0: codes and the scales of their blocks, or bfloat16; float32 for a small parameter."""
    is_small = parameter.ndim < 2 or parameter.numel() < FEWEST_WEIGHTS
    if is_small or kind == "bfloat16":
        dtype = torch.float32 if is_small else torch.bfloat16
        return {name: torch.zeros_like(parameter, dtype=dtype) for name in _MOMENTS}
    fresh = {}
    for name in _MOMENTS:
        fresh[name] = torch.zeros_like(parameter, dtype=torch.uint8)
        fresh[f"{name}_scale"] = _zero_scales(parameter)
    return fresh


def _zero_scales(parameter: Tensor) -> Tensor:
    """(..., blocks of a row) float32 zeros for a parameter (..., row), sharded as it is."""
    shape = torch.Size([*parameter.shape[:-1], -(-parameter.shape[-1] // BLOCK_WEIGHTS)])
    local = _local(parameter)
    scales = torch.zeros([*local.shape[:-1], shape[-1]], dtype=torch.float32, device=local.device)
    if not isinstance(parameter, DTensor):
        return scales
    assert all(not p.is_shard(parameter.ndim - 1) for p in parameter.placements), "a row is cut over ranks"
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        scales, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
    )


def _adamw(rows: dict[str, Tensor], codes: dict[str, Tensor], step: _Step, rng: torch.Generator) -> None:
    """One step of some rows (n, width), in place, computed in float32 or finer.

    Source: Decoupled weight decay regularization, arXiv 1711.05101, algorithm 2.
    """
    parameter, (beta1, beta2) = rows["parameter"], step.betas
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    gradient = rows["gradient"].to(dtype)
    first = _read(rows, "exp_avg", codes).to(dtype).lerp_(gradient, 1 - beta1)
    second = _read(rows, "exp_avg_sq", codes).to(dtype).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # The parameter moves by the moments of this step as they are before they lose digits.
    denominator = (second.sqrt() / math.sqrt(1 - beta2**step.number)).add_(step.eps)
    updated = parameter.to(dtype) * (1 - step.lr * step.weight_decay)
    _store(parameter, updated.addcdiv_(first, denominator, value=-step.lr / (1 - beta1**step.number)), rng)
    for name, moment in (("exp_avg", first), ("exp_avg_sq", second)):
        if f"{name}_scale" in rows:
            _encode(rows, name, codes, moment)
        else:
            _store(rows[name], moment, rng)


def _read(rows: dict[str, Tensor], name: str, codes: dict[str, Tensor]) -> Tensor:
    """A moment (n, width) in float32, a copy."""
    stored, scales = rows[name], rows.get(f"{name}_scale")
    if scales is None:
        return stored.to(torch.float32, copy=True)
    return codes[name][stored.int()] * scales.repeat_interleave(BLOCK_WEIGHTS, 1)[:, : stored.shape[1]]


def _store(stored: Tensor, value: Tensor, rng: torch.Generator) -> None:
    """Write a float32 or float64 ``value`` to ``stored``, both (n, width), in place; bfloat16 is rounded at random."""
    if stored.dtype != torch.bfloat16:
        stored.copy_(value)
        return
    # Sign and magnitude: what is added to the lower half carries into the upper one as often as it should.
    carried = torch.randint(_LOWER_BITS, value.shape, generator=rng, device=value.device, dtype=torch.int32)
    upper = carried.add_(value.view(torch.int32)).bitwise_and_(-_LOWER_BITS)
    stored.copy_(upper.view(torch.float32))


def _encode(rows: dict[str, Tensor], name: str, codes: dict[str, Tensor], moment: Tensor) -> None:
    """Store a moment (n, width) in place as codes and scales."""
    stored, scales = rows[name], rows[f"{name}_scale"]
    width = moment.shape[1]
    blocks = functional.pad(moment.float(), (0, -width % BLOCK_WEIGHTS)).view(len(moment), -1, BLOCK_WEIGHTS)
    torch.amax(blocks.abs(), 2, out=scales)
    # A block of zeros has nothing to be divided by.
    relative = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, :, None]
    middles = (codes[name][1:] + codes[name][:-1]) / 2
    stored.copy_(torch.bucketize(relative.flatten(1)[:, :width].contiguous(), middles, out_int32=True))


def code(*, signed: bool) -> Tensor:
    """The 256 numbers (256,) that a byte stands for, in rising order, from -1 or above 0 up to 1.

    Seven decades, each divided evenly into twice as many as the one below it. Without a sign there is no 0: a second
    moment too small to be told from it would make the next steps of its weight far too long.

    Source: dynamic tree quantization, arXiv 1511.04561, as in arXiv 2110.02861, section 2.
    """
    numbers = []
    for decade in range(_DECADES):
        edges = np.linspace(0.1, 1.0, 2 ** (decade + (0 if signed else 1)) + 1)
        numbers += ((edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - _DECADES + 1)).tolist()
    if signed:
        numbers += [-number for number in numbers] + [0.0, 1.0]
    else:
        numbers += [10.0**-_DECADES, 1.0]
    return torch.tensor(sorted(numbers), dtype=torch.float32)
