"""The output layer of a causal language model, or of a reward model, as the scoring primitive wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from zephyr.errors import ModelError
from zephyr.models.loading import unpadded_vocabulary
from zephyr.trees.score import Head

# What architectures call a factor of the logits, a divisor of them or of the hidden states, and a soft cap.
_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, Inkling
_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """What gives the hidden states that the head of ``model`` reads."""
    decoder = model.base_model
    # The prefix of Llama 4 and Mllama names a module that only their multimodal classes have.
    return model.model if decoder is model and isinstance(getattr(model, "model", None), nn.Module) else decoder


def output_head(model: PreTrainedModel) -> Head:
    """The head of ``model``: weight and bias with their gradients, logit scaling and soft cap from its config.

    Adapters on the head (LoRA) are part of the weight. Raises ModelError for an output layer that is not linear.
    """
    weight, bias = effective_weight(output_layer(model))
    config = model.config.get_text_config()
    known = unpadded_vocabulary(model)
    if known is not None and known < weight.shape[0]:
        weight, bias = weight[:known], None if bias is None else bias[:known]
    scale, divisor = 1.0, 1.0
    for name in _FACTORS:
        scale *= float(getattr(config, name, None) or 1.0)
    for name in _DIVISORS:
        divisor *= float(getattr(config, name, None) or 1.0)
    scale = scale * divisor if config.model_type == "hyperclovax" else scale / divisor  # which multiplies by it
    softcap = next((float(cap) for name in _SOFT_CAPS if (cap := getattr(config, name, None))), None)
    return Head(weight, bias, scale=scale, softcap=softcap)


def reward_layer(model: PreTrainedModel) -> nn.Module | None:
    """The linear layer of a reward model, adapters included; None for a model that predicts tokens."""
    layer: object = getattr(model, "score", None)
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    return layer if is_classifier and isinstance(layer, nn.Module) else None


def output_layer(model: PreTrainedModel) -> nn.Module:
    """The linear layer that makes logits or rewards, adapters included. Raises ModelError where there is none."""
    rewards = reward_layer(model)
    if rewards is not None:
        return rewards
    layer: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None:
        raise ModelError(type(model).__name__, "has no output embeddings", "use a causal language model")
    return layer


def has_transform(model: PreTrainedModel) -> bool:
    """Whether modules stand between the decoder and the output layer, as in BERT's family and ModernBERT."""
    known = {*decoder_of(model).modules(), *output_layer(model).modules()}
    return any(module not in known and not any(True for _ in module.children()) for module in model.modules())


@dataclass
class _DecoderOutput(BaseModelOutputWithPastAndCrossAttentions):
    """What decoders of any kind give."""

    router_logits: tuple[Tensor, ...] | None = None


def head_input(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What ``model`` hands to its output layer (T, H') where its decoder gives ``hidden`` (T, H).

    The model's own forward is run, with both of them replaced.
    """
    handed: list[Tensor] = []

    def given(*_arguments: object, **_keywords: object) -> _DecoderOutput:
        return _DecoderOutput(last_hidden_state=hidden[None])

    def taken(found: Tensor) -> Tensor:
        handed.append(found)
        return found[..., :1]

    with _replaced_forward(decoder_of(model), given), _replaced_forward(output_layer(model), taken):
        model(input_ids=torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device), use_cache=False)
    return handed[0][0]


@contextmanager
def _replaced_forward(module: nn.Module, forward: object) -> Iterator[None]:
    """Within the block the module computes something else."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before


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
