"""The output layer of a causal language model as the scoring primitive wants it."""

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.trees.score import Head


def output_head(model: PreTrainedModel) -> Head:
    """The head of ``model``: weight and bias with their gradients, logit scaling and soft cap from its config.

    Adapters on the head (LoRA) are part of the weight. Raises ModelError for an output layer that is not linear.
    """
    layer: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None:
        raise ModelError(type(model).__name__, "has no output embeddings", "use a causal language model")
    weight, bias = effective_weight(layer)
    config = model.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        scale *= float(getattr(config, name, None) or 1.0)
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides by it, HyperCLOVA X does not
    scale = scale * divisor if config.model_type == "hyperclovax" else scale / divisor
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return Head(weight, bias, scale=scale, softcap=None if softcap is None else float(softcap))


def effective_weight(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight (V, H) that a linear layer applies, with active adapters added, and its bias.

    Raises ModelError for adapters that are not plain, unmerged LoRA.
    """
    if isinstance(layer, ModulesToSaveWrapper):
        saved = layer.modules_to_save[layer.active_adapters[0]]
        layer = layer.original_module if layer.disable_adapters else saved
    if isinstance(layer, BaseTunerLayer):
        _refuse_other_adapters(layer)
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight, bias = getattr(base, "weight", None), getattr(base, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        remedy = "leave the head out of quantization"
        raise ModelError(type(layer).__name__, "is not a linear output layer", remedy)
    if isinstance(layer, LoraLayer) and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A and adapter not in layer.merged_adapters:
                weight = weight + _lora_delta(layer, adapter)
    return weight, bias


def _refuse_other_adapters(layer: BaseTunerLayer) -> None:
    fault = None
    if not isinstance(layer, LoraLayer):
        fault = f"{type(layer).__name__} is not LoRA"
    elif layer.merged and layer.disable_adapters:
        fault = "it is merged into the weight, so it cannot be switched off"
    elif any(layer.lora_variant.get(adapter) or layer.lora_bias.get(adapter) for adapter in layer.active_adapters):
        fault = "variants of LoRA (DoRA, a bias) are not supported there"
    if fault is not None:
        raise ModelError("adapter on the head", fault, "leave lm_head out of target_modules, or unmerge it")


def _lora_delta(layer: LoraLayer, adapter: str) -> Tensor:
    # peft's get_delta_weight works on detached tensors when it merges; here the gradient must flow.
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    assert isinstance(down, Tensor)
    assert isinstance(up, Tensor)
    return float(layer.scaling[adapter]) * (up @ down)
