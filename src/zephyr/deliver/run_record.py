"""What a run has recorded of itself, read from its folder: recipe, versions, finished stages, logs, samples, files.

Nothing is computed anew and nothing is guessed: what was not recorded is None or empty. What is made of it is the
part of card and report.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zephyr.errors import DataError
from zephyr.records.fields import Json

LOCK = "run.lock.json"
LOG = Path("train", "train_log.jsonl")
_KEY_LENGTH = 10
_MODEL_STAGES = ("align", "sft", "pretrain")


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: where it lies, when and in which time it was made, and its facts."""

    name: str
    folder: Path
    seconds: float
    finished: str
    facts: Mapping[str, Json]

    def log(self) -> list[Mapping[str, Json]]:
        """The lines of its training log; none if it did not train."""
        path = self.folder / LOG
        if not path.is_file():
            return []
        return [_fields(line, path) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@dataclass(frozen=True)
class RunRecord:
    """A run as far as it has come."""

    folder: Path
    recipe: Mapping[str, Json]
    packages: Mapping[str, Json]
    machine: Mapping[str, Json]
    model_revision: str | None
    stages: Mapping[str, StageRecord]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def trained(self) -> StageRecord | None:
        """The stage that made the last model."""
        return next((self.stages[name] for name in _MODEL_STAGES if name in self.stages), None)

    @property
    def model_folder(self) -> Path | None:
        """The folder of the last model."""
        folder = None if self.trained is None else self.trained.folder / "model"
        return folder if folder is not None and folder.is_dir() else None

    def relative(self, path: Path) -> str:
        """The path from the run's folder on."""
        return path.relative_to(self.folder).as_posix()


def read_run(folder: Path) -> RunRecord:
    """The record of the run in a folder. Raises DataError where none of its stages is finished."""
    path = folder / LOCK
    if not path.is_file():
        what = f"holds no {LOCK}" if folder.is_dir() else "there is no such folder"
        raise DataError(str(folder), what, "name the folder of a run: output_dir/name of its recipe")
    lock = read_json(path)
    stages = {}
    for name, planned in entries(lock, "stages").items():
        stage = folder / f"{name}-{str(at(planned, 'key') or '')[:_KEY_LENGTH]}"
        if (stage / "stage.json").is_file():
            stages[name] = _stage(name, stage)
    if not stages:
        raise DataError(str(folder), "has no finished stage", "run its recipe first: zephyr run")
    revision = at(lock, "model_revision")
    return RunRecord(
        folder=folder,
        recipe=entries(lock, "recipe"),
        packages=entries(lock, "packages"),
        machine=entries(lock, "machine"),
        model_revision=None if revision is None else str(revision),
        stages=stages,
    )


def read_json(path: Path) -> Json:
    """What a JSON file holds. Raises DataError where it cannot be read."""
    try:
        found: Json = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "run the recipe again") from error
    return found


def at(value: Json | Mapping[str, Json], *keys: str) -> Json:
    """What stands under the keys, one within the other; None where there is nothing."""
    found: object = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str | int | float | list | dict) else None


def entries(value: Json | Mapping[str, Json], *keys: str) -> dict[str, Json]:
    """The mapping under the keys; an empty one where there is none."""
    found = at(value, *keys)
    return found if isinstance(found, dict) else {}


def number(value: Json) -> float | None:
    """The value if it is a finite number, None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def num_parameters(model_folder: Path) -> int:
    """The weights in the folder's safetensors files, counted from their headers; 0 where there are none."""
    total = 0
    for path in model_folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: Json = json.loads(file.read(size))
        for name, tensor in (header if isinstance(header, dict) else {}).items():
            shape = at(tensor, "shape")
            if name != "__metadata__" and isinstance(shape, list):
                total += math.prod(side for side in shape if isinstance(side, int))
    return total


def _stage(name: str, folder: Path) -> StageRecord:
    record = read_json(folder / "stage.json")
    return StageRecord(
        name, folder, number(at(record, "seconds")) or 0.0, str(at(record, "finished") or ""), entries(record, "facts")
    )


def _fields(line: str, path: Path) -> Mapping[str, Json]:
    try:
        found: Json = json.loads(line)
    except ValueError as error:
        raise DataError(str(path), f"has a line that is no JSON ({error})", "run the recipe again") from error
    return found if isinstance(found, dict) else {}
