"""The output layer of a causal language model as the scoring primitive wants it."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.trees.score import Head


def output_head(model: PreTrainedModel) -> Head:
    """The head of ``model``: weight and bias with their gradients, logit scaling and soft cap from its config.

    Adapters on the head (LoRA) are part of the weight. Raises ModelError for an output layer that is not linear.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        raise ModelError(type(model).__name__, "has no output embeddings", "use a causal language model")
    weight, bias = effective_weight(layer)
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return Head(weight, bias, scale=scale, softcap=None if softcap is None else float(softcap))


def effective_weight(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight (V, H) that a linear layer applies, with active adapters added, and its bias."""
    if getattr(layer, "modules_to_save", None) is not None and not getattr(layer, "disable_adapters", False):
        layer = layer.modules_to_save[layer.active_adapters[0]]  # type: ignore[index,union-attr,assignment]
    base = getattr(layer, "base_layer", getattr(layer, "original_module", layer))
    weight, bias = getattr(base, "weight", None), getattr(base, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(type(layer).__name__, "is not a linear output layer", "leave the head out of quantization")
    if hasattr(layer, "get_delta_weight") and not getattr(layer, "disable_adapters", False):
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                weight = weight + _lora_delta(layer, adapter)
    return weight, bias


def _lora_delta(layer: nn.Module, adapter: str) -> Tensor:
    # peft's get_delta_weight works on detached tensors when it merges; here the gradient must flow.
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight  # type: ignore[index,union-attr]
    return layer.scaling[adapter] * (up @ down)  # type: ignore[index,operator,no-any-return]
