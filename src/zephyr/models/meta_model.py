"""Models without weights, on the meta device: what the ranks hold that leave loading to rank 0."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from zephyr.models.loading import DTYPES, Source, caps_scores, unreadable


def empty_model(source: Source, *, dtype: str = "bfloat16") -> PreTrainedModel:
    """The architecture of `source` on the meta device, as `load_model` gives it; no weight is read."""
    config = AutoConfig.from_pretrained(
        source.name,
        revision=source.revision or "main",
        local_files_only=source.offline,
        trust_remote_code=source.runs_own_code,
    )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config,
            dtype=DTYPES[dtype],
            attn_implementation="eager" if caps_scores(config) else None,
            trust_remote_code=source.runs_own_code,
        )
    module: nn.Module = model
    module.eval()
    return model


def num_parameters(source: Source) -> int:
    """The number of weights of a model, of which only the configuration is read. Raises ModelError."""
    try:
        model: nn.Module = empty_model(source)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(source, "configuration", error) from error
    return sum(parameter.numel() for parameter in model.parameters())
