"""Going on from the newest whole checkpoint, and refusing what would silently go wrong.

Every byte is checked against the manifest before anything is read. With several ranks this is a collective
call; their number may differ from that of the run that saved.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor

from zephyr.atomic import find_damage
from zephyr.errors import CheckpointError
from zephyr.models.collectives import from_rank_zero, on_every_rank, rank, world_size
from zephyr.train.checkpoint.checkpoint import (
    STATE,
    Identity,
    Progress,
    TrainingState,
    checkpoint_folders,
    library_versions,
    random_file,
    restore_random_state,
    tensor_groups,
)
from zephyr.train.checkpoint.optimizer_state import (
    JsonObject,
    OptimizerParts,
    empty_tensors,
    mismatch,
    model_tensors,
    restore_optimizer,
    stored_names,
)
from zephyr.train.checkpoint.tensor_files import StoredTensor, read_tensors, stored_tensors

ELSEWHERE = "start in another run folder, or bring back what the checkpoint was made with"
_LISTED = 3
_log = logging.getLogger(__name__)


def load_latest(run_folder: Path, training: TrainingState, *, identity: Identity) -> Progress | None:
    """The progress of the newest complete checkpoint, restored into `training`; None if there is none.

    Trainable weights, buffers, optimizer and random states are overwritten. Damaged checkpoints are named
    in the log and passed over. Raises CheckpointError if none is whole, or if the newest whole one is of
    other data, another recipe or model, or lacks a part of the optimizer's state; nothing is overwritten
    then.
    """
    damaged = []
    for folder in from_rank_zero(lambda: checkpoint_folders(run_folder)):
        damage = _damage(folder)
        if damage is None:
            return _restore(folder, training, identity)
        damaged.append(f"{folder.name}: {damage}")
        _log.warning("%s is damaged and is passed over: %s", folder, damage)
    if damaged:
        raise CheckpointError(
            str(run_folder),
            f"none of its checkpoints is whole ({'; '.join(damaged)})",
            "restore the files, or start in another run folder",
        )
    return None


def load_weights(run_folder: Path, step: int, training: TrainingState, *, with_optimizer: bool) -> None:
    """Load the weights of the checkpoint of that step, and the optimizer's state if asked. A collective call.

    Raises CheckpointError if it is not there or not whole.
    """
    folder = run_folder / f"checkpoint-{step}"
    damage = _damage(folder)
    if damage is not None:
        raise CheckpointError(str(folder), f"holds the best weights and is damaged: {damage}", ELSEWHERE)
    if with_optimizer:
        training.optimizer.state.clear()  # not held twice
        _load(folder, training, cast("JsonObject", json.loads((folder / STATE).read_bytes())))
    else:
        read_tensors(folder, model_tensors(training.model))


def _damage(folder: Path) -> str | None:
    # Each rank hashes a share of the files: one alone would take minutes over a large model.
    found = on_every_rank(lambda: find_damage(folder, part=rank(), num_parts=world_size()))
    return next(filter(None, found), None)


def _restore(folder: Path, training: TrainingState, identity: Identity) -> Progress:
    state = cast("JsonObject", json.loads((folder / STATE).read_bytes()))
    _check_identity(folder, state, identity)
    _load(folder, training, state)
    _restore_random_state(folder, cast("int", state["world_size"]))
    _say_other_versions(folder, cast("dict[str, str]", state["versions"]))
    return Progress(**state["progress"])  # type: ignore[arg-type]  # asdict wrote it, and its hash was checked


def _load(folder: Path, training: TrainingState, state: JsonObject) -> None:
    """Overwrite weights, buffers and the optimizer's state by what the folder holds."""
    scalars = _optimizer_scalars(folder, training, state)
    stored = stored_tensors(folder)
    _check_present(folder, stored_names(scalars), stored)
    room = empty_tensors(training.model, training.optimizer, scalars, stored)
    groups = tensor_groups(training, room)
    into = {name: tensor for group in groups.values() for name, tensor in group.items()}
    _check_present(folder, list(into), stored)
    _check_alike(folder, into, stored)
    read_tensors(folder, into)
    restore_optimizer(training.model, training.optimizer, OptimizerParts(room, scalars))


def _check_identity(folder: Path, state: JsonObject, identity: Identity) -> None:
    saved = cast("dict[str, str]", state["identity"])
    wrong = [
        f"identity.{name} is {saved.get(name)!r}, got {value!r} for this run"
        for name, value in identity._asdict().items()
        if saved.get(name) != value
    ]
    if wrong:
        raise CheckpointError(str(folder / STATE), "; ".join(wrong), ELSEWHERE)


def _optimizer_scalars(folder: Path, training: TrainingState, state: JsonObject) -> JsonObject:
    scalars = state.get("optimizer")
    if not isinstance(scalars, dict):
        raise CheckpointError(
            str(folder / STATE), "optimizer is missing", f"a new optimizer would change the result: {ELSEWHERE}"
        )
    fault = mismatch(training.model, training.optimizer, scalars)
    if fault is not None:
        raise CheckpointError(str(folder / STATE), f"optimizer {fault}", ELSEWHERE)
    return scalars


def _check_present(folder: Path, names: list[str], stored: Mapping[str, StoredTensor]) -> None:
    missing = [name for name in names if name not in stored]
    if missing:
        group = missing[0].split("/")[0] if "/" in missing[0] else "model"
        raise CheckpointError(
            str(folder / f"{group}-*.safetensors"),
            f"{len(missing)} tensors are missing, such as {', '.join(missing[:_LISTED])}",
            ELSEWHERE,
        )


def _check_alike(folder: Path, into: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> None:
    for name, tensor in into.items():
        here = StoredTensor(tuple(tensor.shape), tensor.dtype)
        if stored[name] != here:
            saved = f"{stored[name].dtype} of shape {stored[name].shape}"
            raise CheckpointError(str(folder), f"{name} is {saved}, got {here.dtype} of shape {here.shape}", ELSEWHERE)


def _restore_random_state(folder: Path, saved_ranks: int) -> None:
    if saved_ranks != world_size():
        message = "%s was saved by %d ranks, got %d here: random states are not restored, last bits may differ"
        _log.warning(message, folder, saved_ranks, world_size())
        return
    restore_random_state(json.loads((folder / random_file(rank(), saved_ranks)).read_bytes()))


def _say_other_versions(folder: Path, saved: Mapping[str, str]) -> None:
    here = library_versions()
    for library, version in saved.items():
        if here.get(library) != version:
            _log.warning("%s was made with %s %s, got %s here", folder, library, version, here.get(library))
