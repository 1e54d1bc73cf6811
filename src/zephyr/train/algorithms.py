"""Lion, Muon, Adafactor and schedule-free steps, whose state is sharded as the parameters are and can be checkpointed.

Each steps a parameter by what its rank holds of it; what needs the whole of it is added up over the ranks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

from zephyr.train.distributed import placed_alike

# Five steps of a polynomial that brings singular values near 1, as published.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_MOMENTUM = 0.95
# How large an update of Muon is, as a root mean square: that of AdamW's.
MUON_RMS = 0.2
ADAFACTOR_EPS = 1e-30
ADAFACTOR_DECAY = -0.8

State: TypeAlias = "dict[str, Tensor | int]"


class Group(TypedDict, total=False):
    """Parameters that are stepped alike, and what an optimizer keeps of them."""

    params: list[Tensor]
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    lr_ratio: float  # the learning rate as a multiple of the other groups'
    uses_muon: bool
    num_steps: int
    highest_lr: float
    sum_of_weights: float


class PlainOptimizer(Optimizer):
    """An optimizer of single parameters: what one of them is changed by is its whole description."""

    param_groups: list[Group]  # type: ignore[assignment]

    def __init__(
        self,
        groups: Iterable[dict[str, list[Tensor] | float]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient, in place; a ``closure`` is not taken."""
        assert closure is None, "nothing is evaluated again"
        for group in self.param_groups:
            self.begin(group)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state[parameter], group)

    def begin(self, group: Group) -> None:
        """Note in the group that a step begins."""

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        """Change a parameter of any shape, and its state, in place."""


class Lion(PlainOptimizer):
    """The sign of an average of gradients, for parameters of any shape.

    Source: Symbolic discovery of optimization algorithms, arXiv 2302.06675, algorithm 2.
    """

    def update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        average = _kept(state, "exp_avg", parameter)
        beta1, beta2 = group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(average.lerp(gradient, 1 - beta1).sign_(), alpha=-group["lr"])
        average.lerp_(gradient, 1 - beta2)


class Muon(PlainOptimizer):
    """Orthogonalised momentum for the groups with ``uses_muon``, AdamW for the others, of any shape.

    Updates are as large as AdamW's, so that one learning rate serves both. Of stacked matrices (E, out, in) each is
    orthogonalised by itself. Every rank does so with the whole of a sharded matrix.
    Source: Muon is scalable for LLM training, arXiv 2502.16982; coefficients: github.com/KellerJordan/Muon.
    """

    def update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        if not group.get("uses_muon"):
            _adamw(parameter, gradient, state, group)
            return
        average = _kept(state, "momentum", parameter)
        average.lerp_(gradient, 1 - MUON_MOMENTUM)
        towards = gradient.lerp(average, MUON_MOMENTUM)
        whole = towards.full_tensor() if isinstance(towards, DTensor) else towards
        moved = orthogonalised(whole)
        if isinstance(parameter, DTensor):
            moved = distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
        rate = group["lr"] * MUON_RMS * math.sqrt(max(parameter.shape[-2:]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(moved, alpha=-rate)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest matrices of the same shape with singular values near 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    found: Tensor = matrices.bfloat16().reshape(-1, *matrices.shape[-2:])
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    found = found.mT if is_tall else found
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.mT if is_tall else found).reshape(matrices.shape)


def _adamw(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
    first, second = (_kept(state, name, parameter) for name in ("exp_avg", "exp_avg_sq"))
    number, (beta1, beta2) = _counted(state), group["betas"]
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = second.sqrt().div_(math.sqrt(1 - beta2**number)).add_(group["eps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**number))


class Adafactor(PlainOptimizer):
    """Second moments of matrices as those of their rows and columns, whole ones of parameters of another shape.

    The learning rate is the schedule's.

    Source: arXiv 1804.04235, algorithms 4 and 5 without relative steps and scaling, as transformers' Trainer has it.
    """

    def update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        number, shard = _counted(state), parameter.placements[0] if isinstance(parameter, DTensor) else None
        fresh = number**ADAFACTOR_DECAY
        local = _local(gradient)
        squares = local.square().add_(ADAFACTOR_EPS)
        if parameter.ndim < 2:
            moment = _local(_kept(state, "exp_avg_sq", parameter)).lerp_(squares, fresh)
            step = local * moment.rsqrt()
        else:
            width, height = parameter.shape[-1], parameter.shape[-2]
            is_cut = isinstance(shard, Shard) and shard.dim == parameter.ndim - 2 and height > 1
            rows = squares.sum(-1, keepdim=True) / width
            rows = _factor(state, "exp_avg_sq_row", parameter, dim=-1).lerp_(rows, fresh)
            columns = _over_ranks(squares.sum(-2, keepdim=True), parameter, is_cut=is_cut) / height
            columns = _factor(state, "exp_avg_sq_col", parameter, dim=-2).lerp_(columns, fresh)
            mean = _over_ranks(rows.sum(-2, keepdim=True), parameter, is_cut=is_cut) / height
            step = local * (rows / mean).rsqrt() * columns.rsqrt()
        total = _over_ranks(step.square().sum(), parameter, is_cut=shard is not None)
        step.div_((total / parameter.numel()).sqrt().clamp(min=1.0)).mul_(group["lr"])
        weights = _local(parameter)
        weights.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step)


class ScheduleFree(PlainOptimizer):
    """Steps whose weights, of any shape, are at the end an average over all of them, not those of a falling rate.

    Parameters hold y while training, at which gradients are taken; ``averaged`` puts the average x in their place.
    Source: The road less scheduled, arXiv 2405.15682, algorithm 1, as the package schedulefree 1.4 has it.
    """

    def begin(self, group: Group) -> None:
        group["num_steps"] = group.get("num_steps", 0) + 1
        group["highest_lr"] = max(group["lr"], group.get("highest_lr", 0.0))
        group["sum_of_weights"] = group.get("sum_of_weights", 0.0) + group["highest_lr"] ** 2

    def update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        if "z" not in state:
            state["z"] = parameter.detach().clone()
        base, total, beta1 = state["z"], group["sum_of_weights"], group["betas"][0]
        assert isinstance(base, Tensor)
        share = group["highest_lr"] ** 2 / total if total else 0.0
        step = self.direction(gradient, state, group) + group["weight_decay"] * parameter
        parameter.lerp_(base, share).add_(step, alpha=group["lr"] * (beta1 * (1 - share) - 1))
        base.sub_(step, alpha=group["lr"])

    @abstractmethod
    def direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        """What a step subtracts a multiple of, weight decay aside."""


class ScheduleFreeAdamW(ScheduleFree):
    """With the gradient, of any shape, over the root of its second moment."""

    def direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        second, beta2 = _kept(state, "exp_avg_sq", gradient), group["betas"][1]
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        return gradient / (second / (1 - beta2 ** group["num_steps"])).sqrt_().add_(group["eps"])


class ScheduleFreeSgd(ScheduleFree):
    """With the gradient, of any shape."""

    def direction(self, gradient: Tensor, state: State, group: Group) -> Tensor:
        del state, group
        return gradient


def keeps_average(optimizer: Optimizer) -> bool:
    """Whether the final weights differ from those at which gradients are taken."""
    return isinstance(optimizer, ScheduleFree)


def to_average(optimizer: Optimizer) -> None:
    """Put the average in place of the weights that are trained, where the optimizer keeps one; training is over."""
    if not keeps_average(optimizer):
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                base = optimizer.state[parameter].get("z")
                if base is not None:
                    parameter.lerp_(base, 1 - 1 / group["betas"][0])


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Within the block the model has its final weights; after it those of training, to the bit."""
    if not keeps_average(optimizer):
        yield
        return
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter.detach().clone() for parameter in every]
    to_average(optimizer)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(every, trained, strict=True):
                parameter.copy_(kept)


def _counted(state: State) -> int:
    """The number of a parameter's step, from 1."""
    number = state.get("step", 0)
    assert isinstance(number, int)
    state["step"] = number + 1
    return number + 1


def _kept(state: State, name: str, like: Tensor) -> Tensor:
    """A part of the state of the shape of ``like``, zeros at first."""
    if name not in state:
        state[name] = torch.zeros_like(like)
    kept = state[name]
    assert isinstance(kept, Tensor)
    return kept


def _factor(state: State, name: str, parameter: Tensor, *, dim: int) -> Tensor:
    """What this rank holds of means over a dimension of a matrix, kept with size 1; zeros at first."""
    if name not in state:
        shape, local = list(parameter.shape), list(_local(parameter).shape)
        shape[dim], local[dim] = 1, min(1, local[dim])
        zeros = parameter.new_zeros(shape) if not isinstance(parameter, DTensor) else None
        if isinstance(parameter, DTensor):
            placements = placed_alike(parameter, shape)
            own = shape if placements[0].is_replicate() else local
            part, stride = parameter.to_local().new_zeros(own), torch.empty(shape, device="meta").stride()
            size, mesh = torch.Size(shape), parameter.device_mesh
            zeros = DTensor.from_local(part, mesh, placements, run_check=False, shape=size, stride=stride)
        assert zeros is not None
        state[name] = zeros
    kept = state[name]
    assert isinstance(kept, Tensor)
    return _local(kept)


def _over_ranks(value: Tensor, parameter: Tensor, *, is_cut: bool) -> Tensor:
    """The sum of what the ranks hold, where the parameter is cut over them."""
    if is_cut and isinstance(parameter, DTensor):
        dist.all_reduce(value, group=parameter.device_mesh.get_group())
    return value


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor of any shape that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
