"""Models whose norms compute in the precision of their weights, for laws that are to hold to the last digits."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.models.tiny import tiny_model


class ExactNorm(nn.Module):
    """An RMSNorm in its input's own precision, with the parameter and epsilon of ``norm``.

    transformers' norms compute in float32 whatever the model's dtype is. In a float64 model that leaves noise
    of 1e-7, behind which an error of the layout could hide; with it gone, equality holds to 1e-14.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
        self.offset = float("Gemma" in type(norm).__name__)  # Gemma's weight is the distance from one

    def forward(self, states: Tensor) -> Tensor:
        root_mean_square = (states.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        return states / root_mean_square * (self.weight + self.offset)


def with_exact_norms(model: PreTrainedModel) -> PreTrainedModel:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, ExactNorm(child))
    return model


def float64_model(name: str, *, sliding_window: int = 8) -> PreTrainedModel:
    return with_exact_norms(tiny_model(name, dtype=torch.float64, sliding_window=sliding_window))
