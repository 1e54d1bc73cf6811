"""An optimizer's state as named tensors and JSON, stored without pickles and put back to the bit.

Parameters are known by their names in the model, never by their order. What a checkpoint needs of the
model's own tensors stands here too, because both must use the same names.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, empty
from torch.optim import Optimizer

from zephyr.errors import CheckpointError
from zephyr.records.fields import Json
from zephyr.train.checkpoint.tensor_files import StoredTensor, can_store
from zephyr.train.distributed import placed_alike

JsonObject: TypeAlias = dict[str, Json]

# torch.compile and activation checkpointing put these into names; a run may do without them when it goes on.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


class OptimizerParts(NamedTuple):
    """An optimizer's whole state: tensors named `optimizer/<key>/<parameter>`, the rest as plain values."""

    tensors: dict[str, Tensor]
    scalars: JsonObject


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: trainable parameters and persistent buffers, by name, not copied.

    Frozen weights are left out: they are what the run's model hash says. Under FSDP2 these are DTensors.
    """
    # Asking for the state dict makes FSDP2 return to sharded parameters, which the optimizer knows, so it
    # comes first.
    persistent = set(model.state_dict(keep_vars=True))
    tensors: dict[str, Tensor] = {
        _plain(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    buffers = {_plain(name): buffer for name, buffer in model.named_buffers() if name in persistent}
    return tensors | buffers


def optimizer_parts(model: nn.Module, optimizer: Optimizer) -> OptimizerParts:
    """The state of a living optimizer, tensors not copied; CheckpointError for state of an unknown kind."""
    names = _parameter_names(model)
    tensors: dict[str, Tensor] = {}
    state: JsonObject = {}
    for parameter, entries in optimizer.state.items():
        name = names[parameter]
        keys: list[Json] = []
        scalars: JsonObject = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                _refuse_unknown(parameter, value, f"{key} of {name}")
                tensors[tensor_name(key, name)] = value
                keys.append(key)
            else:
                scalars[key] = _json(value, f"{key} of {name}")
        state[name] = {"tensors": keys, "scalars": scalars}
    groups: list[Json] = [
        {
            "parameters": [names[parameter] for parameter in group["params"]],
            "settings": {key: _json(value, key) for key, value in group.items() if key != "params"},
        }
        for group in optimizer.param_groups
    ]
    return OptimizerParts(tensors, {"class": type(optimizer).__name__, "groups": groups, "state": state})


def stored_names(scalars: JsonObject) -> list[str]:
    """The names of the tensors that belong to these scalars."""
    state = cast("dict[str, dict[str, list[str]]]", scalars["state"])
    return [tensor_name(key, name) for name, entry in state.items() for key in entry["tensors"]]


def mismatch(model: nn.Module, optimizer: Optimizer, scalars: JsonObject) -> str | None:
    """What keeps stored scalars from fitting this optimizer, in words, or None if they fit."""
    if scalars["class"] != type(optimizer).__name__:
        return f"holds the state of {scalars['class']}, the run uses {type(optimizer).__name__}"
    names = _parameter_names(model)
    here = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    groups = cast("list[dict[str, list[str]]]", scalars["groups"])
    there = [group["parameters"] for group in groups]
    if here != there:
        only = sorted({name for group in here for name in group} ^ {name for group in there for name in group})
        return f"groups its parameters otherwise than the run ({', '.join(only[:3]) or 'same names'})"
    return None


def empty_tensors(
    model: nn.Module, optimizer: Optimizer, scalars: JsonObject, stored: Mapping[str, StoredTensor]
) -> dict[str, Tensor]:
    """Room for the stored tensors, sharded and placed as this optimizer would have made them."""
    parameters = {name: parameter for parameter, name in _parameter_names(model).items()}
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    room = {}
    for full_name in stored_names(scalars):
        _, _, name = full_name.split("/", 2)
        parameter = parameters[name]
        shape, dtype = stored[full_name]
        group = group_of[id(parameter)]
        if shape == tuple(parameter.shape) and shape:
            room[full_name] = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        elif shape and isinstance(parameter, DTensor):
            # Fewer numbers than weights, such as the scales of eight-bit moments, or moments of rows and columns.
            placements = placed_alike(parameter, shape)
            room[full_name] = empty(shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=placements)
        else:
            # torch's optimizers count steps on the CPU unless the kernel that reads the count runs on the
            # device.
            on_device = bool(shape) or group.get("fused") or group.get("capturable")
            room[full_name] = torch.empty(shape, dtype=dtype, device=parameter.device if on_device else "cpu")
    return room


def restore_optimizer(model: nn.Module, optimizer: Optimizer, parts: OptimizerParts) -> None:
    """Replace the optimizer's state by that in `parts`, whose tensors it takes over."""
    fault = mismatch(model, optimizer, parts.scalars)
    assert fault is None, fault
    names = _parameter_names(model)
    state = cast("dict[str, dict[str, JsonObject]]", parts.scalars["state"])
    optimizer.state.clear()
    for parameter, name in names.items():
        if name not in state:
            continue
        entry = state[name]
        tensors = {key: parts.tensors[tensor_name(key, name)] for key in entry["tensors"]}
        optimizer.state[parameter] = {**tensors, **entry["scalars"]}
    groups = cast("list[dict[str, JsonObject]]", parts.scalars["groups"])
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved["settings"].items():
            fresh = group.get(key)
            if isinstance(fresh, Tensor):
                fresh.fill_(cast("float", value))
            else:
                group[key] = tuple(cast("list[Json]", value)) if isinstance(fresh, tuple) else value


def tensor_name(key: str, parameter: str) -> str:
    """The name under which a parameter's `key` is stored."""
    return f"optimizer/{key}/{parameter}"


def _parameter_names(model: nn.Module) -> dict[Tensor, str]:
    # As for the model's tensors: the optimizer's keys are the sharded parameters.
    model.state_dict(keep_vars=True)
    return {parameter: _plain(name) for name, parameter in model.named_parameters()}


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _json(value: object, what: str) -> Json:
    if isinstance(value, Tensor) and value.numel() == 1:
        return cast("float", value.item())
    if isinstance(value, list | tuple):
        return [_json(item, what) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        "optimizer state",
        f"{what} is a {type(value).__name__}, which a checkpoint cannot store",
        "use another optimizer",
    )


def _refuse_unknown(parameter: Tensor, value: Tensor, what: str) -> None:
    plain = type(value) in (Tensor, nn.Parameter, DTensor)
    # Ranks hold different pieces of what is not a DTensor; stored as one tensor, all but one would be lost.
    split = isinstance(parameter, DTensor) and not isinstance(value, DTensor) and value.dim() > 0
    if plain and not split and can_store(value.dtype):
        return
    kind = f"{type(value).__name__} of {value.dtype}" + (" beside a sharded parameter" if split else "")
    raise CheckpointError(
        "optimizer state", f"{what} is a {kind}, which a checkpoint cannot store", "use another optimizer"
    )
