"""Optimizers and learning-rate schedules, by the names that transformers uses for them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zephyr.models.architecture import not_hidden
from zephyr.recipe.steps import Steps
from zephyr.recipe.train_section import LoraSection, OptimizerName, SchedulerName, TrainSection
from zephyr.train.algorithms import (
    Adafactor,
    Lion,
    Muon,
    PlainOptimizer,
    ScheduleFreeAdamW,
    ScheduleFreeSgd,
)
from zephyr.train.checkpoint.checkpoint import Progress
from zephyr.train.compact_adamw import CompactAdamW

# The time scale inverse_sqrt falls back on without a warm-up.
INVERSE_SQRT_TIMESCALE = 10_000
# Where transformers' polynomial ends, whatever the peak.
POLYNOMIAL_END = 1e-7

# By what share of the best value another one must be better to end a plateau.
PLATEAU_THRESHOLD = 1e-4
_MATRIX = 2
# The patterns of transformers' Trainer.get_decay_parameter_names.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
_B_MATRIX = re.compile(r"\.lora_(embedding_)?B\.")

ParameterGroups: TypeAlias = "list[dict[str, list[Tensor] | float]]"
Build: TypeAlias = Callable[[ParameterGroups, TrainSection], Optimizer]


class _Kind(NamedTuple):
    """What parameters of a group have in common; groups come in the order of their kinds."""

    is_b_matrix: bool
    is_undecayed: bool
    is_for_adam: bool


def build_optimizer(model: nn.Module, train: TrainSection, lora: LoraSection | None = None) -> Optimizer:
    """The optimizer ``train.optim`` over the trainable parameters; norms and biases are not decayed.

    With ``lora.loraplus_lr_ratio`` the B matrices of adapters are groups of their own, and with muon what is not a
    hidden matrix. Source of LoRA+: arXiv 2402.12354.
    """
    ratio = 1.0 if lora is None else lora.loraplus_lr_ratio
    undecayed = not_decayed(model)
    no_matrix = not_hidden(model) if train.optim == "muon" else set()
    groups: dict[_Kind, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_b, is_bare = ratio != 1 and bool(_B_MATRIX.search(name)), name in undecayed
            is_for_adam = train.optim == "muon" and (is_bare or parameter in no_matrix or parameter.ndim < _MATRIX)
            groups.setdefault(_Kind(is_b, is_bare, is_for_adam), []).append(parameter)
    described: ParameterGroups = []
    for kind, parameters in sorted(groups.items()):
        decay = 0.0 if kind.is_undecayed else train.weight_decay
        group: dict[str, list[Tensor] | float] = {"params": parameters, "weight_decay": decay}
        if train.optim == "muon":
            group["uses_muon"] = not kind.is_for_adam
        if kind.is_b_matrix:
            group["lr_ratio"] = ratio
        described.append(group)
    return OPTIMIZER_BUILDERS[train.optim](described, train)


def not_decayed(model: nn.Module) -> set[str]:
    """The names of the parameters without weight decay: biases and norms, by the names that transformers goes by."""
    in_layer_norms = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    named = {name for name, _ in model.named_parameters() if _NOT_DECAYED.search(name.lower())}
    return named | in_layer_norms


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of the next step, in each group times the ratio that it may have."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)


def _adamw(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    """torch's; on bfloat16 weights one that rounds at random, because to the nearest small updates are lost."""
    if train.precision == "pure_bf16":
        return CompactAdamW(groups, "bfloat16", lr=train.learning_rate, betas=_betas(train), eps=train.adam_epsilon)
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=_betas(train), eps=train.adam_epsilon, fused=True)


def _rmsprop(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    """As transformers builds it, and so the first alignment-handbook recipes: alpha 0.99, eps 1e-8."""
    return torch.optim.RMSprop(groups, lr=train.learning_rate)


def _adamw_8bit(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    return CompactAdamW(groups, "byte", lr=train.learning_rate, betas=_betas(train), eps=train.adam_epsilon)


def _plain(kind: type[PlainOptimizer]) -> Build:
    """How an optimizer of this kind is built."""

    def build(groups: ParameterGroups, train: TrainSection) -> Optimizer:
        return kind(groups, lr=train.learning_rate, betas=_betas(train), eps=train.adam_epsilon)

    return build


def _betas(train: TrainSection) -> tuple[float, float]:
    return (train.adam_beta1, train.adam_beta2)


OPTIMIZER_BUILDERS: dict[OptimizerName, Build] = {
    "adamw_torch": _adamw,
    "adamw_8bit": _adamw_8bit,
    "rmsprop": _rmsprop,
    "lion": _plain(Lion),
    "muon": _plain(Muon),
    "adafactor": _plain(Adafactor),
    "schedule_free_adamw": _plain(ScheduleFreeAdamW),
    "schedule_free_sgd": _plain(ScheduleFreeSgd),
}


def learning_rate_at(step: int, train: TrainSection, steps: Steps) -> float:
    """The learning rate at a 0-based step: the warm-up rises linearly from 0, then the schedule takes over.

    It equals transformers' schedules of the same names, including that the first step of a warm-up has rate 0, except
    in cosine_warmup_with_min_lr.
    """
    if step < steps.warmup_steps:
        done = step + (train.lr_scheduler_type == "cosine_warmup_with_min_lr")
        return train.learning_rate * (done / steps.warmup_steps)
    return train.learning_rate * SCHEDULES[train.lr_scheduler_type](step, train, steps)


def highest_rate(num_done: int, train: TrainSection, steps: Steps) -> float | None:
    """The highest learning rate of the first steps; None where the optimizer's steps follow the gradient's size."""
    if not train.steps_by_rate:
        return None
    return max((learning_rate_at(step, train, steps) for step in range(num_done)), default=0.0)


def _progress(step: int, steps: Steps) -> float:
    """How much of the way from the end of the warm-up to the last step is done, 0 to 1."""
    return min(1.0, (step - steps.warmup_steps) / max(1, steps.num_steps - steps.warmup_steps))


def linear(step: int, _train: TrainSection, steps: Steps) -> float:
    """A straight line down to 0."""
    return 1 - _progress(step, steps)


def cosine(step: int, _train: TrainSection, steps: Steps) -> float:
    """Half a cosine down to 0.

    Source: SGDR without restarts, arXiv 1608.03983.
    """
    return 0.5 * (1 + math.cos(math.pi * _progress(step, steps)))


def cosine_with_restarts(step: int, train: TrainSection, steps: Steps) -> float:
    """``num_cycles`` times half a cosine down to 0.

    Source: SGDR, arXiv 1608.03983.
    """
    progress = _progress(step, steps)
    return 0.5 * (1 + math.cos(math.pi * (train.num_cycles * progress % 1))) if progress < 1 else 0.0


def polynomial(step: int, train: TrainSection, steps: Steps) -> float:
    """A power of the line down to a rate of 1e-7."""
    end = POLYNOMIAL_END / train.learning_rate
    return (1 - end) * math.pow(1 - _progress(step, steps), train.power) + end


def warmup_stable_decay(step: int, train: TrainSection, steps: Steps) -> float:
    """The peak, and in the last ``num_decay_steps`` half a cosine down to 0.

    Source: MiniCPM, arXiv 2404.06395.
    """
    decay = train.num_decay_steps or max(1, steps.num_steps // 10)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0, step - (steps.num_steps - decay)) / decay)))


def cosine_warmup_with_min_lr(step: int, train: TrainSection, steps: Steps) -> float:
    """Half a cosine down to ``min_lr_ratio``, a step ahead."""
    progress = (step + 1 - steps.warmup_steps) / max(1, steps.num_steps - steps.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress)) * (1 - train.min_lr_ratio) + train.min_lr_ratio


def cosine_with_min_lr(step: int, train: TrainSection, steps: Steps) -> float:
    """Half a cosine down to ``min_lr_ratio``."""
    return cosine(step, train, steps) * (1 - train.min_lr_ratio) + train.min_lr_ratio


def inverse_sqrt(step: int, _train: TrainSection, steps: Steps) -> float:
    """The root of warm-up steps over steps; without a warm-up, of 10,000 over 10,000 + steps.

    Source: Attention is all you need, arXiv 1706.03762, equation 3.
    """
    timescale = steps.warmup_steps or INVERSE_SQRT_TIMESCALE
    return math.sqrt(timescale / (step + timescale - steps.warmup_steps))


def on_plateau(progress: Progress, value: float, train: TrainSection) -> Progress:
    """The progress after an evaluation that gave ``value``: a plateau that is too long makes the learning rate smaller.

    As torch's ReduceLROnPlateau counts, which transformers uses, but in the direction of the metric.
    """
    best, length = progress.plateau_value, progress.plateau_length + 1
    sign = 1 if train.prefers_greater else -1
    if best is None or sign * value > sign * best + PLATEAU_THRESHOLD * abs(best):
        return replace(progress, plateau_value=value, plateau_length=0)
    if length <= train.plateau_patience:
        return replace(progress, plateau_length=length)
    return replace(progress, lr_factor=progress.lr_factor * train.plateau_factor, plateau_length=0)


def constant(_step: int, _train: TrainSection, _steps: Steps) -> float:
    """The peak throughout."""
    return 1.0


SCHEDULES: dict[SchedulerName, Callable[[int, TrainSection, Steps], float]] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "cosine_with_min_lr": cosine_with_min_lr,
    "cosine_warmup_with_min_lr": cosine_warmup_with_min_lr,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "warmup_stable_decay": warmup_stable_decay,
    "constant_with_warmup": constant,
    "constant": constant,
    "reduce_lr_on_plateau": constant,  # what evaluations make of it is a factor
}
