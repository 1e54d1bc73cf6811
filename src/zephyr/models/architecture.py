"""What an architecture has, known before any weight is read: the modules that adapters may name."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

from zephyr.errors import ModelError, Problems
from zephyr.recipe.train_section import LoraSection


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The matrix products of a model by their path, its own experts aside."""
    return {path: module for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


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
    linear = sorted({path.rpartition(".")[2] for path in linear_layers(model)})
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
