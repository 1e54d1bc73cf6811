"""New models with random weights: where a run starts without any download."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection


def new_model(
    architecture: str, sizes: Mapping[str, int], tokenizer: Tokenizer, *, seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    """A model of `architecture` as transformers names it, with random weights that follow from `seed` alone.

    `sizes` are fields of its configuration. Torch's own random state is left alone.
    """
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **tokens, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    module: nn.Module = model
    module.to(dtype)
    module.eval()
    return model


def weightless_model(architecture: str, sizes: Mapping[str, int | None], *, dtype: torch.dtype) -> PreTrainedModel:
    """A model of `architecture` on the meta device; `sizes` are fields of its configuration."""
    config = AutoConfig.for_model(architecture, **sizes)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    return model


def set_generation(
    model: PreTrainedModel, tokenizer: Tokenizer, sampling: SamplingSection, *, stop_ids: Iterable[int]
) -> None:
    """Make the model, once saved, sample like this wherever it is loaded."""
    draws = sampling.temperature > 0
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(stop_ids),
        pad_token_id=pad,
        do_sample=draws,
        temperature=sampling.temperature if draws else None,
        top_k=sampling.top_k or None if draws else None,
        top_p=sampling.top_p if draws else None,
    )
