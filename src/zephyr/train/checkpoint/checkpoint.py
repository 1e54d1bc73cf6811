"""Checkpoints that are whole or not there: written, listed, and thinned out.

A checkpoint is a folder `checkpoint-<step>` of safetensors and JSON, nothing pickled: the tensors of
`model`, `optimizer` and `extra` by rank, the random states by rank, `state.json`, and a manifest with the
SHA-256 of them all. `resume.py` reads it back. With several ranks, saving is a collective call and the run
folder is shared.
"""

import json
import logging
import platform
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zephyr import __version__
from zephyr.atomic import (
    FileRecord,
    discard,
    find_damage,
    partial_folder,
    publish,
    remove_leftovers,
    write_file,
)
from zephyr.errors import ResourceError
from zephyr.models.collectives import from_rank_zero, on_every_rank, rank, world_size
from zephyr.records.fields import Json
from zephyr.train.checkpoint.optimizer_state import JsonObject, model_tensors, optimizer_parts
from zephyr.train.checkpoint.tensor_files import write_tensors

STATE = "state.json"
# Saving may take at most this share of the time.
MOST_SHARE = 0.05
_log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Hashes of what a run is made from. A checkpoint continues only the run whose hashes it carries."""

    data_hash: str
    recipe_hash: str
    model_hash: str


@dataclass(frozen=True)
class Progress:
    """The progress of a run. `notes` holds further plain values that the loop must restore.

    `not_better` counts the evaluations since the best one that were no better. What a plateau has made of the learning
    rate is `lr_factor`; the best value that it has seen, and the evaluations since, are kept apart.
    """

    step: int
    examples_seen: int = 0
    best_step: int | None = None
    best_value: float | None = None
    not_better: int = 0
    lr_factor: float = 1.0
    plateau_value: float | None = None
    plateau_length: int = 0
    notes: JsonObject = field(default_factory=dict)


class TrainingState(NamedTuple):
    """The living objects of a run, saved from and restored into in place.

    `extra_tensors` are what training changes besides the model, such as the moving reference of TR-DPO. On
    several ranks, tensors that are not DTensors must be alike on all of them: one copy is stored.
    """

    model: nn.Module
    optimizer: Optimizer
    extra_tensors: Mapping[str, Tensor] = {}


def save_checkpoint(run_folder: Path, training: TrainingState, *, progress: Progress, identity: Identity) -> Path:
    """The folder `checkpoint-<step>`, written whole or not at all; one of the same step is replaced.

    Raises ResourceError naming the file if the disk is full or fails; all older checkpoints stay as they
    were.
    """
    final = run_folder / f"checkpoint-{progress.step}"
    partial: Path | None = None
    try:
        partial = from_rank_zero(lambda: _begin(final))
        folder = partial
        parts = optimizer_parts(training.model, training.optimizer)
        records = write_tensors(folder, tensor_groups(training, parts.tensors))
        records |= on_every_rank(lambda: _write_random_state(folder))[rank()]
        merged = {name: record for part in on_every_rank(lambda: records) for name, record in part.items()}
        state = _state(progress, identity, parts.scalars)
        from_rank_zero(lambda: _finish(folder, final, merged, state))
    except OSError as error:
        kept = checkpoint_folders(run_folder)
        last = f"{kept[0].name} is kept" if kept else "there was no earlier checkpoint"
        raise ResourceError(
            error.filename or str(final),
            f"the checkpoint of step {progress.step} could not be written, got '{error.strerror}'",
            f"{last}; make room or repair the disk, then run again",
        ) from error
    finally:
        if partial is not None and rank() == 0 and partial.exists():
            discard(partial)
    return final


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """All checkpoints of a run, newest first, whole or damaged. Partial ones are not among them."""
    if not run_folder.is_dir():
        return []
    found: dict[int, Path] = {}
    # A `.replaced` folder counts while its successor is missing: the plain name sorts first and wins.
    for path in sorted(run_folder.glob("checkpoint-*")):
        name = re.fullmatch(r"checkpoint-(\d+)(\.replaced-.+)?", path.name)
        if name is not None:
            found.setdefault(int(name[1]), path)
    return [found[step] for step in sorted(found, reverse=True)]


def whole_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoints whose every byte is as written, newest first."""
    return [folder for folder in checkpoint_folders(run_folder) if find_damage(folder) is None]


def prune_checkpoints(run_folder: Path, *, keep_last: int, best_step: int | None = None) -> list[Path]:
    """The checkpoints that were removed: all but the newest `keep_last` and that of `best_step`. For rank 0.

    Those whose files are missing or cut do not count as kept, and are not removed: they are evidence. Raises
    ValueError for a `keep_last` below 1.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, got {keep_last}")
    whole = [folder for folder in checkpoint_folders(run_folder) if find_damage(folder, contents=False) is None]
    removed = [folder for folder in whole[keep_last:] if folder.name != f"checkpoint-{best_step}"]
    for folder in removed:
        discard(folder)
    return removed


def tensor_groups(training: TrainingState, optimizer: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """All tensors of a checkpoint, of any shape, by the files they go to, not copied."""
    extra = {f"extra/{name}": tensor for name, tensor in training.extra_tensors.items()}
    return {"model": model_tensors(training.model), "optimizer": optimizer, "extra": extra}


def random_file(of_rank: int, of_ranks: int) -> str:
    """The name of the file with the random states of one rank."""
    return f"random-{of_rank:05d}-of-{of_ranks:05d}.json"


def library_versions() -> dict[str, str]:
    """What a run's numbers depend on besides its recipe."""
    return {
        "zephyr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _begin(final: Path) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    for name in remove_leftovers(final.parent):
        _log.info("%s: removed %s, left by a process that died", final.parent, name)
    return partial_folder(final)


def _write_random_state(folder: Path) -> dict[str, FileRecord]:
    name = random_file(rank(), world_size())
    return {name: _write_json(folder / name, random_state(all_devices=world_size() == 1))}


def _finish(partial: Path, final: Path, records: dict[str, FileRecord], state: JsonObject) -> None:
    all_records = records | {STATE: _write_json(partial / STATE, state)}
    publish(partial, final, all_records)


def _write_json(path: Path, content: JsonObject) -> FileRecord:
    return write_file(path, [json.dumps(content, indent=1, allow_nan=False).encode()])


def _state(progress: Progress, identity: Identity, optimizer: JsonObject) -> JsonObject:
    return {
        "progress": cast("JsonObject", asdict(progress)),
        "identity": cast("JsonObject", identity._asdict()),
        "world_size": world_size(),
        "versions": cast("JsonObject", library_versions()),
        "optimizer": optimizer,
    }


def random_state(*, all_devices: bool = True) -> JsonObject:
    """The state of all generators of this process; torch's are in hexadecimal.

    Without `all_devices` only the current accelerator's is taken: on several ranks, each has its own
    device, and asking for the others would open them.
    """
    version, integers, gauss = random.getstate()
    # numpy's old global generator is nobody's choice here, but libraries still draw from it.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    torch_states: JsonObject = {"cpu": _hex(torch.get_rng_state())}
    if torch.accelerator.is_available():
        module = torch.get_device_module(torch.accelerator.current_accelerator())
        current = torch.accelerator.current_device_index()
        for index in range(torch.accelerator.device_count()) if all_devices else [current]:
            torch_states[f"device:{index}"] = _hex(module.get_rng_state(index))
    return {
        "python": [version, list(integers), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch_states,
    }


def restore_random_state(state: JsonObject) -> None:
    """Set all generators to `state`. A device that is not here any more is passed over."""
    version, integers, gauss = cast("tuple[int, list[int], float | None]", state["python"])
    random.setstate((version, tuple(integers), gauss))
    name, keys, position, has_gauss, cached = cast("tuple[str, list[int], int, int, float]", state["numpy"])
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch_states = cast("dict[str, str]", state["torch"])
    torch.set_rng_state(_bytes_tensor(torch_states["cpu"]))
    if torch.accelerator.is_available():
        module = torch.get_device_module(torch.accelerator.current_accelerator())
        for index in range(torch.accelerator.device_count()):
            if f"device:{index}" in torch_states:
                module.set_rng_state(_bytes_tensor(torch_states[f"device:{index}"]), index)


def _hex(state: torch.Tensor) -> Json:
    return bytes(state.cpu().tolist()).hex()


def _bytes_tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


class SaveClock:
    """When a checkpoint is due by the clock: often enough that a crash loses little, never so often that it slows.

    It holds the time since the last checkpoint, and what one costs. Each rank has one; that of rank 0 decides.
    """

    def __init__(self, every_seconds: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every_seconds
        self._clock = clock
        self._last = clock()
        self._cost = 0.0

    def is_due(self) -> bool:
        """Whether the last checkpoint is long enough ago, also as measured by what it took."""
        if self._every is None:
            return False
        return self._clock() - self._last >= max(self._every, self._cost / MOST_SHARE)

    def save(self, write: Callable[[], object]) -> None:
        """Run `write`; the time until the next checkpoint counts from its end."""
        began = self._clock()
        write()
        self._last = self._clock()
        self._cost = self._last - began
