"""LoRA adapters on a language or reward model: add, switch off, save and load.

A model with adapters holds its own DPO reference: the same weights with the
adapters off. Hu et al. 2021, arXiv 2106.09685.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.architecture import check_lora_modules, fused_experts, linear_layers, named_modules
from zephyr.models.collectives import on_every_rank, rank, world_size
from zephyr.models.head import reward_layer
from zephyr.models.loading import check_finite_weights, new_folder, refuse_existing, save_model
from zephyr.models.model_files import num_weights, read_object
from zephyr.models.stored_weights import StoredWeights
from zephyr.models.tokenizers import Tokenizer
from zephyr.models.weight_hash import plain_name
from zephyr.recipe.train_section import LoraSection
from zephyr.records.fields import printable
from zephyr.runs.layout import CARD

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
_log = logging.getLogger(__name__)


def add_lora(model: PreTrainedModel, lora: LoraSection, *, seed: int = 0) -> PeftModel:
    """The model wrapped with new adapters that change nothing yet; they and `modules_to_save` will train.

    The model is changed in place. On the meta device its adapters are on the CPU all the same, drawn as ever; the
    magnitudes of DoRA are then still to be measured, by `fill_magnitudes`. Raises ModelError for target modules it does
    not have.
    """
    if hasattr(model, "peft_config"):
        raise ValueError("the model has adapters already: merge them first")
    fused = {} if lora.target_modules == "all-linear" else fused_experts(model, lora.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM" if reward_layer(model) is None else "SEQ_CLS",  # which trains the head in full
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # peft divides it by r: a float serves
        lora_dropout=lora.lora_dropout,
        target_modules=_targets(model, lora),
        target_parameters=sorted(fused) or None,
        rank_pattern={rf".*\.{re.escape(weight)}": lora.r * parts for weight, parts in fused.items()},
        alpha_pattern={rf".*\.{re.escape(weight)}": lora.lora_alpha * parts for weight, parts in fused.items()},
        layers_to_transform=lora.layers_to_transform,
        use_rslora=lora.use_rslora,
        modules_to_save=list(lora.modules_to_save) or None,
        use_dora=lora.use_dora,
    )
    check_lora_modules(model, lora)
    asked = {path for name in config.target_modules or () for path in _paths(model, name)}
    with torch.random.fork_rng(devices=[]), _NotToMeta():
        torch.manual_seed(seed)
        try:
            with _false_alarms_unsaid():
                wrapped = get_peft_model(model, config)
        except ValueError as error:
            where = f"LoRA on {type(model).__name__}"
            raise ModelError(where, str(error).partition("\n")[0], "name other target modules") from error
    assert isinstance(wrapped, PeftModel)
    _tell_left_out(wrapped, asked)
    return wrapped


@contextmanager
def _false_alarms_unsaid() -> Iterator[None]:
    """Leave unsaid what peft 0.21 warns of without cause.

    It asks a model for `is_gradient_checkpointing`, which transformers 5.23 gave another name; and it says that the
    rank and alpha of fused experts are ignored, which it uses: it looks for them among modules, and they are weights.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys .* ignored: \['\.\*\\")
        yield


def _paths(model: nn.Module, name: str) -> list[str]:
    return [path for path, _ in model.named_modules() if path == name or path.endswith(f".{name}")]


def _tell_left_out(model: PeftModel, asked: set[str]) -> None:
    """Say of which linear modules peft has left out what was asked: where it takes their names for those of experts."""
    base: nn.Module = model.get_base_model()
    adapted = {path for path, module in base.named_modules() if isinstance(module, LoraLayer)}
    left = sorted((asked - adapted) & linear_layers(base).keys())
    if left:
        _log.warning("peft puts adapters on the experts alone, and none on %d other modules, as %s", len(left), left[0])


class _NotToMeta(TorchFunctionMode):
    """Inside, what is moved to the meta device stays where it is: peft moves each adapter to the weights below it.

    What is moved away from there is zeros, of which peft makes DoRA's magnitudes.
    """

    def __torch_function__(  # type: ignore[explicit-any]  # the interface of torch
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.to:
            is_meta = [isinstance(arg, torch.device) and arg.type == "meta" for arg in args]
            args = [args[0].device if meta else arg for arg, meta in zip(args, is_meta, strict=True)]
            if args[0].is_meta and len(args) > 1 and isinstance(args[1], torch.device) and args[1].type != "meta":
                return torch.zeros(1, dtype=args[0].dtype, device=args[1]).expand(args[0].shape)
        return func(*args, **(kwargs or {}))


def fill_magnitudes(model: PeftModel, weights: StoredWeights) -> None:
    """Set DoRA's magnitudes of new adapters to the norms of the stored weights, in place; nothing without DoRA.

    A collective call: each rank reads a share of the weights, one at a time.
    """
    layers = {f"{plain_name(path)}.weight": one for path, one in model.named_modules() if isinstance(one, LoraLayer)}
    magnitudes = {
        name: (dora, layer.get_base_layer().weight)
        for name, layer in layers.items()
        for dora in getattr(layer, "lora_magnitude_vector", {}).values()
    }

    def measured(name: str) -> Tensor:
        dora, below = magnitudes[name]
        assert isinstance(below, Tensor)
        weight = torch.empty(below.shape, dtype=below.dtype)
        weights.read(name, weight, [0] * weight.ndim)
        # As peft measures it, beside a new adapter, which adds nothing.
        norm: Tensor = dora.get_weight_norm(weight, torch.zeros((), dtype=weight.dtype), 1.0)
        return norm.detach()

    mine = sorted(magnitudes)[rank() :: world_size()]
    for norms in on_every_rank(lambda: {name: measured(name) for name in mine}):
        for name, norm in norms.items():
            dora, _ = magnitudes[name]
            dora.weight.data = norm.to(dora.weight.dtype)


def _targets(model: PreTrainedModel, lora: LoraSection) -> str | list[str]:
    """What peft is to adapt; of some layers it wants names where they are to be all linear ones."""
    if lora.target_modules != "all-linear":
        return named_modules(model, lora.target_modules)
    if lora.layers_to_transform is None:
        return lora.target_modules
    head = reward_layer(model) or model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return sorted({path.rpartition(".")[2] for path, module in linear_layers(model).items() if module is not head})


def adapter_dropouts(model: nn.Module) -> list[nn.Dropout]:
    """The dropouts on what adapters are given, in the order of their layers; a probability of 0 has none."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return [one for layer in layers for one in layer.lora_dropout.values() if isinstance(one, nn.Dropout)]


@contextmanager
def adapters_disabled(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Inside, the model computes as if it had no adapters: the reference of preference training with LoRA.

    Raises TypeError for a model without adapters.
    """
    if not isinstance(model, PeftModel):
        raise TypeError("the model has no adapters to disable")
    # peft switches gradients off with the adapters, and on with them, whether or not they were on before.
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        with model.disable_adapter():
            # At once: FSDP2 takes over what it finds when it gathers a weight for the first time.
            for parameter, requires_grad in trained.items():
                parameter.requires_grad_(requires_grad)
            yield
    finally:
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)


def adapters_add_nothing(model: PreTrainedModel | PeftModel) -> bool:
    """Whether the adapters are as new, so that the model still computes what it does without them."""
    ups = [parameter for name, parameter in model.named_parameters() if "lora_B" in name or "lora_embedding_B" in name]
    replaced = any(".modules_to_save." in name for name, _ in model.named_parameters())
    # On the meta device and in a simulation there is nothing to look at: who holds the weights decides.
    return not replaced and not any(bool(up.any()) for up in ups if not (up.is_meta or isinstance(up, FakeTensor)))


def save(
    model: PreTrainedModel | PeftModel,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model, or its adapters alone if it has any, to `folder`, new and whole.

    `weights`: the whole state dict of a model that is sharded, each tensor in its full shape; that of the adapters
    will do for those.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, folder, weights=weights, tokenizer=tokenizer)
    else:
        save_model(model, tokenizer, folder, weights=weights)


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write the adapters to `folder`, new and whole, as peft and others read them, with a card.

    `tokenizer`: saved beside them, with its chat template. `weights`: the adapters' unsharded state dict by the model's
    names, where the model's own weights are sharded; each tensor has the shape of its parameter. Raises ModelError if
    the folder exists.
    """
    refuse_existing(folder)
    with new_folder(folder) as partial:
        # False: what decides "auto" is a look-up on the hub; `modules_to_save` are saved in any case.
        given = None if weights is None else dict(weights)
        model.save_pretrained(str(partial), save_embedding_layers=False, state_dict=given)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        # Instead of peft's, which asks for what it does not know.
        (partial / CARD).write_text(_adapter_card(model), encoding="utf-8")


def _adapter_card(model: PeftModel) -> str:
    """A card that says what the adapters are and how they are loaded; a base in a folder is not named."""
    config = model.peft_config[model.active_adapter]
    base = str(config.base_model_name_or_path or "")
    is_hub_id = base.count("/") < 2 and not base.startswith((".", "/", "~")) and not Path(base).exists()
    front = ["library_name: peft", *([f"base_model: {base}"] if base and is_hub_id else []), "tags: [lora, zephyr]"]
    rank = f" of rank {config.r}" if isinstance(config, LoraConfig) else ""
    lines = [
        "---", *front, "---", "", f"# LoRA adapters{rank}", "",
        "Trained by Zephyr; the merged model is in the folder `model` beside these. With peft:", "",
        "```python", "from peft import AutoPeftModelForCausalLM", "from transformers import AutoTokenizer", "",
        'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")', "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The model, changed in place, with the adapters of `folder`. Raises ModelError where they do not fit."""
    where = str(folder)
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            pickled = name == WEIGHTS and (folder / "adapter_model.bin").is_file()
            what = f"holds adapter_model.bin but no {WEIGHTS}" if pickled else f"holds no {name}"
            raise ModelError(where, what, "name an adapter folder that was saved as safetensors")
    read_object(folder / SETTINGS)
    num_weights(folder / WEIGHTS)
    try:
        saved = load_file(folder / WEIGHTS)
        with _false_alarms_unsaid():
            wrapped = PeftModel.from_pretrained(model, where, is_trainable=trainable, local_files_only=True)
    except Exception as error:
        reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise ModelError(where, f"does not fit the model ({reason})", "use the base it was trained on") from error
    check_finite_weights(saved, where)
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
    differing = sorted(wanted ^ saved.keys())
    if differing:
        raise ModelError(where, f"does not fit the model at {differing[0]}", "use the base it was trained on")
    return wrapped


def lora_of(model: object) -> LoraSection | None:
    """The settings for new adapters like those of a peft model; None for a model without any. Raises ModelError."""
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter]
    if not isinstance(config, LoraConfig):
        kind = type(config).__name__
        raise ModelError("model", f"has adapters of the kind {kind}", "give a model with LoRA adapters, or merge them")
    targets = config.target_modules
    modules = sorted(targets) if isinstance(targets, list | set) else [targets] if targets else "all-linear"
    layers = config.layers_to_transform
    return LoraSection(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if modules in (["all-linear"], "all-linear") else list(modules),
        modules_to_save=list(config.modules_to_save or ()),
        layers_to_transform=[layers] if isinstance(layers, int) else layers,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
