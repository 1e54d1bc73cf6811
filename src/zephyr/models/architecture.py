"""What an architecture has, known before any weight is read: the modules that adapters may name."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

from zephyr.errors import ModelError, Problems
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.train_section import LoraSection


def empty_new_model(shape: NewModel) -> PreTrainedModel:
    """The architecture of a new model on the meta device, without weights."""
    sizes = shape.model_dump(exclude={"kind", "architecture"})
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(shape.architecture, **sizes)
        )
    return model


def check_lora_modules(model: PreTrainedModel, lora: LoraSection) -> None:
    """Check that the model has the modules that a section names, and that adapters on them can be merged.

    The model may be on the meta device. Raises ModelError, or ProblemsError for several.
    """
    problems = Problems()
    targets = [] if lora.target_modules == "all-linear" else lora.target_modules
    for name in dict.fromkeys([*targets, *lora.modules_to_save]):
        with problems.noted():
            _check_present(model, name)
    if model.config.get_text_config().tie_word_embeddings:
        tied = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[no-untyped-call]
        for name in targets:
            if any(module in tied for module in _named(model, name)):
                with problems.noted():
                    raise ModelError(
                        _where(model),
                        f"'{name}' shares its weights with the embedding, so adapters on it could not be merged",
                        f"leave it out of target_modules; modules_to_save: [{name}] trains it in full, untied",
                    )
    problems.raise_any()


def _check_present(model: PreTrainedModel, name: str) -> None:
    if _named(model, name):
        return
    linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))})
    raise ModelError(
        _where(model),
        f"the model has no module '{name}'; its linear modules are {', '.join(linear)}",
        "name some of these, or 'all-linear'",
    )


def _named(model: PreTrainedModel, name: str) -> list[nn.Module]:
    """The modules whose path is the name, or ends in it."""
    return [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]


def _where(model: PreTrainedModel) -> str:
    return f"LoRA on {type(model).__name__}"
