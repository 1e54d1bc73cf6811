"""What a training run is told, in the words of transformers' TrainingArguments where they have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from zephyr.errors import RecipeError

Precision = Literal["float64", "float32", "bf16", "pure_bf16"]

# (dtype of the weights, dtype of the computation)
DTYPES: dict[Precision, tuple[torch.dtype, torch.dtype]] = {
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bf16": (torch.float32, torch.bfloat16),
    "pure_bf16": (torch.bfloat16, torch.bfloat16),
}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    ``train_batch_size`` counts examples of one optimizer step over all ranks; how they are cut into micro-batches
    (``max_tokens_per_micro_batch`` unique tokens each) changes memory and speed, never the step.
    ``precision``: "float32" ("float64" for proofs); "bf16" computes in bfloat16 with float32 weights; "pure_bf16"
    keeps bfloat16 weights.
    ``save_seconds`` saves by the clock, beside ``save_steps``; neither changes a result. With
    ``metric_for_best_model`` every evaluation that is the best so far is saved, and its weights are those in the end.
    """

    learning_rate: float = 5.0e-7
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    train_batch_size: int = 32
    max_tokens_per_micro_batch: int = 8192
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    warmup_steps: int | None = None
    min_lr_ratio: float = 0.1
    optim: str = "adamw_torch"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1.0e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    precision: Precision = "float32"
    activation_checkpointing: bool = False
    compile: bool = False
    router_aux_loss_coef: float = 0.0
    seed: int = 42
    shuffle: bool = True
    logging_steps: int = 1
    eval_steps: int | None = None
    save_steps: int | None = None
    save_seconds: float | None = None
    save_total_limit: int = 2
    metric_for_best_model: str | None = None
    greater_is_better: bool = False
    report_to: tuple[str, ...] = ()
    self_checks: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with, all at once."""
        problems = [f"{name} must be {wanted}, got {getattr(self, name)}" for name, wanted in self._out_of_range()]
        if problems:
            raise RecipeError("training settings", "; ".join(problems), "correct these values")

    @property
    def weights_in(self) -> torch.dtype:
        """The dtype of the weights."""
        return DTYPES[self.precision][0]

    @property
    def computed_in(self) -> torch.dtype:
        """The dtype of the computation, which says how far rounding may move a log-prob."""
        return DTYPES[self.precision][1]

    def _out_of_range(self) -> list[tuple[str, str]]:
        positive = ("train_batch_size", "max_tokens_per_micro_batch", "logging_steps", "save_total_limit")
        optional = ("max_steps", "eval_steps", "save_steps")
        wrong = [(name, "at least 1") for name in positive if getattr(self, name) < 1]
        wrong += [(name, "at least 1 or absent") for name in optional if (getattr(self, name) or 1) < 1]
        not_negative = ("learning_rate", "weight_decay", "warmup_ratio", "router_aux_loss_coef")
        wrong += [(name, "0 or more") for name in not_negative if not getattr(self, name) >= 0]
        if self.num_train_epochs <= 0:
            wrong.append(("num_train_epochs", "above 0"))
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            wrong.append(("max_grad_norm", "above 0 or absent"))
        if self.save_seconds is not None and not self.save_seconds > 0:
            wrong.append(("save_seconds", "above 0 or absent"))
        if self.warmup_ratio > 1:
            wrong.append(("warmup_ratio", "at most 1"))
        return wrong
