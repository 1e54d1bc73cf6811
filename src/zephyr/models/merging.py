"""Adapters merged into the weights below them: of a model in memory, or weight by weight between files.

The second way needs no process that holds the whole model.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from zephyr.errors import ModelError
from zephyr.models.adapters import WEIGHTS, add_lora
from zephyr.models.loading import check_finite_weights
from zephyr.models.stored_weights import StoredWeights
from zephyr.models.weight_hash import plain_name
from zephyr.recipe.train_section import LoraSection

# How far merging may move a logit: it rounds the merged weights once to their dtype.
MERGE_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 1.0}
# And what a layer gives, as a share of its norm.
_LAYER_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
# Tokens of a piece of the probe of a mixture of experts.
PIECE = 4
# Ids that every vocabulary has, to compare logits on.
_PROBE = tuple(range(1, 9))
# Rows of numbers that a layer is compared on.
_PROBED_ROWS = 8
# As peft names the model that it wraps.
_WRAPPED = "base_model.model."

_log = logging.getLogger(__name__)


class Merged(NamedTuple):
    """A plain model with the adapters in its weights, and how far its logits moved on the probe."""

    model: PreTrainedModel
    max_logit_difference: float


def merge_adapters(model: PeftModel, probe_ids: Tensor, *, tolerance: float | None = None) -> Merged:
    """The plain model with its adapters merged in, checked on `probe_ids` (B, n); `model` is used up.

    In 16 bits merging may move a token to another expert, and its logits by far more than rounding does: of a mixture
    of experts only the tokens count whose experts stay, in a probe cut into short pieces. Raises ModelError, with the
    adapters separate again, where a logit of the probe moves by more than `tolerance` (by default a bound that depends
    on the dtype).
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    if getattr(base, "is_quantized", False):
        raise ModelError(
            "merging adapters",
            "the base model is quantised, and rounding the merged weights to 4 bits would lose the adapter",
            "merge into the base as `load_dequantised` gives it",
        )
    bound = MERGE_TOLERANCES[base.dtype] if tolerance is None else tolerance
    module: nn.Module = model
    module.eval()
    if (num_chosen := _experts_that_may_change(base)) and probe_ids.numel() >= PIECE:
        probe_ids = probe_ids.flatten()[: probe_ids.numel() // PIECE * PIECE].view(-1, PIECE)
    before = _probed(base, probe_ids, num_chosen)
    model.merge_adapter(safe_merge=True)
    after = _probed(base, probe_ids, num_chosen)
    compared = _compared(before, after)
    difference = float((after.logits - before.logits).abs().amax(-1)[compared].max())
    where = f"{int(compared.sum())} of {compared.numel()} tokens of the probe"
    if not compared.all():
        _log.info("merging adapters: compared %s, those whose experts stay the same", where)
    if not difference <= bound:  # NaN is above every bound
        model.unmerge_adapter()
        raise ModelError(
            "merging adapters",
            f"a logit of {where} moved by {difference:.3g}, more than {bound:.3g}",
            "merge in a wider dtype",
        )
    plain = model.unload()
    assert isinstance(plain, PreTrainedModel)
    _declare_untied(plain)
    return Merged(plain, difference)


def _declare_untied(model: PreTrainedModel) -> None:
    """Say in the configuration that head and embedding differ, where one of a tied pair was trained in full.

    Loaders that obey the configuration would otherwise drop one of the two.
    """
    config = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[no-untyped-call]
    if config.tie_word_embeddings and head is not None and head.weight is not embedding.weight:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False


class _Probed(NamedTuple):
    """Logits (B, n, V) and, of a mixture, the experts (layers, B, n, k) that each layer chose."""

    logits: Tensor
    chosen: Tensor | None


def _experts_that_may_change(model: PreTrainedModel) -> int:
    """How many experts a token has, where rounding may change them and the model tells which; else 0."""
    tells = "router_logits" in (getattr(model, "_can_record_outputs", None) or {}) or hasattr(
        model.config, "output_router_logits"
    )
    config = model.config.get_text_config()
    return int(getattr(config, "num_experts_per_tok", None) or 0) if tells and model.dtype.itemsize == 2 else 0


def _probed(model: PreTrainedModel, ids: Tensor, num_chosen: int) -> _Probed:
    keywords: dict[str, bool] = {"output_router_logits": True} if num_chosen else {}
    with torch.no_grad():
        output = model(input_ids=ids.to(model.device), use_cache=False, **keywords)
    logits: Tensor = output.logits
    routers = (getattr(output, "router_logits", None) or ()) if num_chosen else ()
    told = all(layer.numel() % ids.numel() == 0 and layer.shape[-1] >= num_chosen for layer in routers)
    chosen = [layer.view(*ids.shape, -1).topk(num_chosen).indices.sort().values for layer in routers if told]
    exact = logits.double() if logits.device.type == "cpu" else logits.float()
    return _Probed(exact, torch.stack(chosen) if chosen else None)


def _compared(before: _Probed, after: _Probed) -> Tensor:
    """Whether each token (B, n) neither changed its experts nor sees others that did; all, where none is so."""
    everything = torch.ones(before.logits.shape[:-1], dtype=torch.bool, device=before.logits.device)
    if before.chosen is None or after.chosen is None:
        return everything
    changed = (before.chosen != after.chosen).any(-1).any(0)
    stable = changed.cumsum(-1) == 0
    if stable.any():
        return stable
    _log.warning("merging adapters: no token of the probe keeps its experts, so all are compared")
    return everything


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """A plain copy of the model with the adapters in its weights. Raises ModelError where merging moves its logits."""
    return merge_adapters(copy.deepcopy(model), torch.tensor([_PROBE])).model


# ---- weight by weight ----


def merged_weights(
    model: PreTrainedModel, lora: LoraSection, adapter: Path, weights: StoredWeights, names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """The named weights of a model on the meta device, read one after the other, with an adapter folder's merged in.

    Each layer but stacked experts is checked to give with the merged weight what it gave with its adapter. Raises
    ModelError where it does not.
    """
    saved = load_file(adapter / WEIGHTS)
    adapted = add_lora(copy.deepcopy(model), lora)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # a module trained in full: see below
        set_peft_model_state_dict(adapted, saved)
    nn.Module.eval(adapted)
    layers = _adapted_weights(adapted)
    state = model.state_dict()
    for name in names:
        trained = saved.get(f"{_WRAPPED}{name}")  # in full, as one of `modules_to_save`
        if trained is not None:
            yield name, trained.to(state[name].dtype)
            continue
        weight = torch.empty(state[name].shape, dtype=state[name].dtype)
        weights.read(name, weight, [0] * weight.ndim)
        yield name, weight if name not in layers else _merged_weight(layers[name], name, weight)


def _adapted_weights(model: PeftModel) -> dict[str, LoraLayer]:
    """The adapters on a model, by the names that the weights below them have without."""
    return {
        f"{plain_name(path)}.{getattr(layer, 'parameter_name', 'weight')}": layer
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _merged_weight(layer: LoraLayer, name: str, weight: Tensor) -> Tensor:
    """The weight of any shape with the layer's adapter merged in, checked unless it is that of stacked experts."""
    base, own = layer.get_base_layer(), name.rpartition(".")[2]
    base.register_parameter(own, nn.Parameter(weight, requires_grad=False))
    if hasattr(layer, "parameter_name"):
        layer.merge(safe_merge=False)  # a safe one would hold two more copies of what is largest of all weights
        check_finite_weights({name: getattr(base, own)}, "merging adapters")
    else:
        if isinstance(bias := getattr(base, "bias", None), Tensor):  # on the meta device, and no adapter's
            base.register_parameter("bias", nn.Parameter(torch.zeros_like(bias, device="cpu")))
        _merge_checked(layer, name, _layer_probe(base, weight))
    merged: Tensor = getattr(base, own).data
    base.register_parameter(own, None)
    return merged


def _layer_probe(base: nn.Module, weight: Tensor) -> Tensor:
    """Input for a layer: ids of an embedding, else rows of numbers."""
    drawn = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        return torch.randint(len(weight), (_PROBED_ROWS,), generator=drawn)
    width = weight.shape[1] if isinstance(base, nn.Linear) else weight.shape[0]  # of GPT-2's layers
    return torch.randn(_PROBED_ROWS, width, generator=drawn).to(weight.dtype)


def _merge_checked(layer: LoraLayer, name: str, probe: Tensor) -> None:
    module = layer
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        before: Tensor = module(probe)
        layer.merge(safe_merge=True)
        after: Tensor = module(probe)
    moved, bound = float((after - before).double().norm() / before.double().norm()), _LAYER_TOLERANCES[before.dtype]
    if not moved <= bound:  # NaN is above every bound
        what = f"what the layer of {name} gives moved by {moved:.3g} of itself, more than {bound:.3g}"
        raise ModelError("merging adapters", what, "merge in a wider dtype")
