"""What adapters need of a model, checked before it is loaded: the modules they name, and trained control tokens."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

from zephyr.errors import ModelError, Problems
from zephyr.models.source import Source
from zephyr.recipe.train_section import LoraSection
from zephyr.records.fields import listed

# Dimensions of a weight that holds all experts of a layer.
_STACKED = 3
# By the name of a stacked weight, the projections that it holds as checkpoints name them: llama's, and Mixtral's.
_PROJECTIONS = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The matrix products of a model by their path, its own experts aside."""
    return {path: module for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def fused_experts(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The stacked weights of experts that names reach, by the end of their path, and the projections that each holds.

    Raises ModelError for one projection of several that are one weight.
    """
    reached = {}
    ends = {name.rpartition(".")[2] for name in names}
    for weight in _stacked_experts(model):
        container, _, own = weight.rpartition(".")
        kinds = _PROJECTIONS.get(own, ((own,),))
        if {container, own} & ends or any({*kind} <= ends for kind in kinds):
            reached[weight] = len(kinds[0])
            continue
        for kind in kinds:
            if {*kind} & ends:
                what = f"'{min({*kind} & ends)}' is a part of the weight {weight} of all experts"
                raise ModelError(_where(model), what, f"name all of {', '.join(kind)}, or none")
    return reached


def named_modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of the names that are modules adapters go on, experts with stacked weights aside."""
    return [name for name in names if any(not _is_stacked(module) for module in _named(model, name))]


def _stacked_experts(model: nn.Module) -> set[str]:
    """The ends of the paths of weights that hold all experts of a layer, as ``experts.down_proj``."""
    return {
        f"experts.{name}"
        for path, module in model.named_modules()
        if path.rpartition(".")[2] == "experts"
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == _STACKED
    }


def _is_stacked(module: nn.Module) -> bool:
    return any(parameter.ndim == _STACKED for parameter in module.parameters(recurse=False))


def not_hidden(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of embeddings, of output layers and of convolutions."""
    modules = [one for one in model.modules() if isinstance(one, nn.Embedding | nn.Conv1d)]
    heads = [one.get_output_embeddings() for one in model.modules() if isinstance(one, PreTrainedModel)]  # type: ignore[no-untyped-call]
    return {parameter for module in [*modules, *filter(None, heads)] for parameter in module.parameters()}


def check_lora_modules(model: PreTrainedModel, lora: LoraSection) -> None:
    """Check that the model has the modules that a section names, and that adapters on them can be merged.

    The model may be on the meta device. Raises ModelError, or ProblemsError for several.
    """
    problems = Problems()
    targets = _named_targets(lora)
    num_layers = model.config.get_text_config().num_hidden_layers
    beyond = [number for number in lora.layers_to_transform or () if number >= num_layers]
    if beyond:
        with problems.noted():
            what = f"layers_to_transform names layer {beyond[0]}, and the model has {num_layers}"
            raise ModelError(_where(model), what, f"name layers from 0 to {num_layers - 1}")
    with problems.noted():
        _check_experts(model, lora)
        _check_dropout(model, lora)
    for name in dict.fromkeys([*targets, *lora.modules_to_save]):
        with problems.noted():
            _check_present(model, name, is_target=name in targets)
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


def check_control_tokens(
    source: Source, model: PreTrainedModel, lora: LoraSection, controls: Mapping[str, int]
) -> None:
    """Check that the control tokens of a chat template, ids by their texts, have weights that were trained.

    Adapters leave the embedding and the head as they are: a token whose row is zero, or that of another one, can then
    never be told apart or written. The model is on the meta device. Weights that are not on this machine pass. Raises
    ModelError. Source: github.com/unslothai/unsloth issue 416.
    """
    from zephyr.models.stored_weights import stored_rows  # not for checks of recipes without adapters

    ends = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    paths = [path for path, module in model.named_modules() if module in ends]
    is_tied = model.config.get_text_config().tie_word_embeddings
    saved = [path for path in paths if path.rpartition(".")[2] in {*lora.modules_to_save, *_named_targets(lora)}]
    for path in [] if is_tied and saved else [path for path in paths if path not in saved]:
        rows = stored_rows(source, model, f"{path}.weight", list(controls.values()))
        untrained = [] if rows is None else _untrained(rows, list(controls))
        if untrained:
            what = f"the rows of {listed(map(repr, untrained))} in {path} are untrained, and adapters leave them so"
            names = ", ".join(one.rpartition(".")[2] for one in paths)
            remedy = f"set modules_to_save: [{names}], or choose a chat template whose control tokens the model knows"
            raise ModelError(_where(model), what, remedy)


def _named_targets(lora: LoraSection) -> Sequence[str]:
    return () if lora.target_modules == "all-linear" else lora.target_modules


def _untrained(rows: Tensor, names: Sequence[str]) -> list[str]:
    """The names of the rows (n, width) that are zero, or equal to another one."""
    is_alike = (rows[:, None] == rows[None, :]).all(-1).sum(1) > 1
    is_zero = rows.abs().amax(1) == 0
    return [name for name, bad in zip(names, (is_alike | is_zero).tolist(), strict=True) if bad]


def _check_experts(model: PreTrainedModel, lora: LoraSection) -> None:
    """Check that what a section asks for can be done to the experts it names."""
    fused = fused_experts(model, _named_targets(lora))
    if fused and (lora.use_dora or lora.layers_to_transform is not None):
        setting = "use_dora" if lora.use_dora else "layers_to_transform"
        what = f"{setting} cannot be had for the stacked weights {listed(sorted(fused))} of experts"
        raise ModelError(_where(model), what, f"leave out {setting}, or the experts from target_modules")


def _check_dropout(model: PreTrainedModel, lora: LoraSection) -> None:
    """Check that dropout can be had on all that a section names."""
    if not lora.lora_dropout:
        return
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    names = _named_targets(lora)
    if any(module is head for name in names for module in _named(model, name)):
        what = "lora_dropout cannot be had on the head, whose adapters are a part of its weight"
        raise ModelError(_where(model), what, "set lora_dropout to 0, or leave the head out of target_modules")
    if _stacked_experts(model) if lora.target_modules == "all-linear" else fused_experts(model, names):
        what = "lora_dropout cannot be had on stacked weights of experts, in peft either"
        raise ModelError(_where(model), what, "set lora_dropout to 0, or name target_modules without the experts")


def _check_present(model: PreTrainedModel, name: str, *, is_target: bool) -> None:
    if _named(model, name) if not is_target else named_modules(model, [name]) or _reaches_experts(model, name):
        return
    linear = sorted({path.rpartition(".")[2] for path in linear_layers(model)})
    raise ModelError(
        _where(model),
        f"the model has no module '{name}'; its linear modules are {', '.join(linear)}",
        "name some of these, or 'all-linear'",
    )


def _reaches_experts(model: PreTrainedModel, name: str) -> bool:
    """Whether a name is that of experts, of a stacked weight of theirs, or of a projection in one."""
    known = {"experts"} if _stacked_experts(model) else set[str]()
    for weight in _stacked_experts(model):
        own = weight.rpartition(".")[2]
        known |= {own, *(projection for kind in _PROJECTIONS.get(own, ()) for projection in kind)}
    return name.rpartition(".")[2] in known


def _named(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules whose path is the name, or ends in it."""
    return [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]


def _where(model: nn.Module) -> str:
    return f"LoRA on {type(model).__name__}"
