"""Optimizers by the names transformers uses for ``optim``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zephyr.errors import RecipeError
from zephyr.recipe.train_section import Optimizer as OptimizerName
from zephyr.recipe.train_section import TrainSection

ParameterGroups: TypeAlias = "list[dict[str, list[Tensor] | float]]"
Build: TypeAlias = Callable[[ParameterGroups, TrainSection], Optimizer]


def build_optimizer(model: nn.Module, train: TrainSection) -> Optimizer:
    """The optimizer ``train.optim`` over the trainable parameters; vectors (norms, biases) are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: ParameterGroups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[train.optim]([group for group in groups if group["params"]], train)


def _adamw(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    betas = (train.adam_beta1, train.adam_beta2)
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas, eps=train.adam_epsilon, fused=True)


def _rmsprop(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    """As transformers builds it, and so the first alignment-handbook recipes: alpha 0.99, eps 1e-8."""
    return torch.optim.RMSprop(groups, lr=train.learning_rate)


def _adamw_bnb_8bit(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise _missing("adamw_bnb_8bit", "bitsandbytes") from error
    betas = (train.adam_beta1, train.adam_beta2)
    optimizer: Optimizer = AdamW8bit(groups, lr=train.learning_rate, betas=betas, eps=train.adam_epsilon)
    return optimizer


def _adamw_torchao_8bit(groups: ParameterGroups, train: TrainSection) -> Optimizer:
    """Works on FSDP2's sharded parameters too."""
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise _missing("adamw_torchao_8bit", "torchao") from error
    betas = (train.adam_beta1, train.adam_beta2)
    optimizer: Optimizer = AdamW8bit(groups, lr=train.learning_rate, betas=betas, eps=train.adam_epsilon)
    return optimizer


def _missing(optim: str, package: str) -> RecipeError:
    return RecipeError(
        "optim", f"'{optim}' needs the package {package}, which is not installed", f"pip install {package}"
    )


OPTIMIZERS: dict[OptimizerName, Build] = {
    "adamw_torch": _adamw,
    "adamw_bnb_8bit": _adamw_bnb_8bit,
    "adamw_torchao_8bit": _adamw_torchao_8bit,
    "rmsprop": _rmsprop,
}
