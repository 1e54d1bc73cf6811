"""What a run recorded of itself, read from its folder: recipe, versions, finished stages, logs, samples, files.

Nothing is computed or guessed: what was not recorded is None or empty. Card, report and plan use it.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zephyr.errors import DataError
from zephyr.recipe.stage_sections import ALIGN, EVALUATE, POLICY_STAGES, PRETRAIN, REWARD, SFT
from zephyr.records.fields import Json
from zephyr.runs.layout import (
    LEDGER,
    LOCK_FILE,
    MODEL,
    SAMPLES_FILE,
    STAGE_FILE,
    TOKENS,
    TRAIN,
    TRAIN_LOG,
    measurement_file,
    stage_folder_name,
)

# What the model of a stage is called, as in the paper.
_TITLES = {PRETRAIN: "base", SFT: "dSFT", REWARD: "reward model"}


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage: its folder, when it was finished, how long it took, and its facts."""

    name: str
    folder: Path
    seconds: float
    finished: str
    facts: Mapping[str, Json]

    def log(self) -> list[Mapping[str, Json]]:
        """The lines of its training log; none if it did not train. Raises DataError for a line that is no JSON."""
        path = self.folder / TRAIN / TRAIN_LOG
        if not path.is_file():
            return []
        return [_fields(line, path) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def samples(self) -> list[Json]:
        """Its sample prompts, each with what every model answered; none if it wrote no such file."""
        path = self.folder / SAMPLES_FILE
        found = read_record(path) if path.is_file() else None
        return found if isinstance(found, list) else []

    def train_tokens(self) -> Path | None:
        """The folder of its training rows as tokens, for `data.tokenize.token_store`; None where it has none."""
        folder = self.folder / TOKENS / "train"
        return folder if folder.is_dir() else None

    def measurements(self, task: str, stage: str = "") -> list[Path]:
        """The files of an evaluation task, for the model of a stage or for all models, in the order of the tasks."""
        return sorted(self.folder.glob(measurement_file("*", task, stage)))


@dataclass(frozen=True)
class RunRecord:
    """The recorded state of a run."""

    folder: Path
    recipe: Mapping[str, Json]
    packages: Mapping[str, Json]
    machine: Mapping[str, Json]
    model_revision: str | None
    hub_sources: frozenset[str]
    stages: Mapping[str, FinishedStage]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def trained(self) -> FinishedStage | None:
        """The stage that made the last model; of a run that made a reward model alone, that."""
        return next((self.stages[name] for name in (*reversed(POLICY_STAGES), REWARD) if name in self.stages), None)

    @property
    def model_folder(self) -> Path | None:
        """The folder of the last model."""
        folder = None if self.trained is None else self.trained.folder / MODEL
        return folder if folder is not None and folder.is_dir() else None

    @property
    def lineage(self) -> "list[RunRecord]":
        """The run itself, then the one whose stage made the model that it starts from, and so on: the rounds before."""
        base = Path(str(at(self.recipe, "model", "name_or_path") or ""))
        is_of_a_run = base.name == MODEL and (base.parent / STAGE_FILE).is_file()
        before = base.parent.parent if is_of_a_run else None
        return [self, *(read_run(before).lineage if before is not None and (before / LOCK_FILE).is_file() else [])]

    def title_of(self, stage: str) -> str:
        """What tables call the model of a stage."""
        return model_title(stage, str(at(self.recipe, ALIGN, "objective", "name") or "dpo"))

    def ledgers(self) -> list[Path]:
        """The ledgers of the run and of its stages, as far as there are any."""
        folders = [self.folder, *(stage.folder for stage in self.stages.values())]
        return [path for folder in folders if (path := folder / LEDGER).is_file()]

    def relative(self, path: Path) -> str:
        """The path relative to the run's folder."""
        return path.relative_to(self.folder).as_posix()


def read_run(folder: Path) -> RunRecord:
    """The record of the run in a folder. Raises DataError where none of its stages is finished."""
    path = folder / LOCK_FILE
    if not path.is_file():
        what = f"has no {LOCK_FILE}" if folder.is_dir() else "there is no such folder"
        raise DataError(str(folder), what, "name the folder of a run: output_dir/name of its recipe")
    lock = read_record(path)
    stages = {}
    for name, planned in entries(lock, "stages").items():
        stage = folder / stage_folder_name(name, str(at(planned, "key") or ""))
        if (stage / STAGE_FILE).is_file():
            stages[name] = _finished_stage(name, stage)
    if not stages:
        raise DataError(str(folder), "has no finished stage", "run its recipe first: zephyr run")
    revision = at(lock, "model_revision")
    return RunRecord(
        folder=folder,
        recipe=entries(lock, "recipe"),
        packages=entries(lock, "packages"),
        machine=entries(lock, "machine"),
        model_revision=None if revision is None else str(revision),
        hub_sources=frozenset(map(str, elements(lock, "hub_sources"))),
        stages=stages,
    )


def main_scores(record: RunRecord, title: str) -> Iterator[tuple[str, float]]:
    """The scores of a model of the run, by the name of the task, metric or benchmark."""
    facts = record.stages[EVALUATE].facts if EVALUATE in record.stages else {}
    found = {
        "world": at(facts, "scores", title, "score"),
        "perplexity": at(facts, "metrics", f"perplexity/{title}"),
        **{name: at(score, "score") for name, score in entries(facts, "benchmarks", title).items()},
    }
    if title == record.title_of(ALIGN):
        found["preference/accuracy"] = at(facts, "metrics", "preference/accuracy")
    for name, score in found.items():
        value = number(score)
        if value is not None:
            yield name, value


def model_title(stage: str, objective: str) -> str:
    """What tables call the model of a stage, in the words of the paper; `objective`: the name of align's."""
    return _TITLES.get(stage, "dDPO" if objective == "dpo" else objective.upper())


def seconds_taken(run_folder: Path, stages: Sequence[str]) -> dict[str, float]:
    """Seconds that the newest finished folder of each stage took."""
    newest: dict[str, tuple[str, float]] = {}
    for path in run_folder.glob(f"*/{STAGE_FILE}"):
        try:
            record = json.loads(path.read_bytes())
            stage, found = str(record["key"]["stage"]), (str(record["finished"]), float(record["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another program's, or damaged: a run says so, a plan does without
        newest[stage] = max(newest.get(stage, found), found)
    return {stage: newest[stage][1] for stage in stages if stage in newest}


def model_name(model_folder: Path) -> str:
    """What a model folder is called: that of its run for the model of a stage (NAME/STAGE-HASH/model), else its own."""
    folder = model_folder.resolve()
    return folder.parent.parent.name if folder.name == MODEL else folder.name


def read_record(path: Path) -> Json:
    """What a JSON file holds. Raises DataError where it cannot be read."""
    try:
        found: Json = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "run the recipe again") from error
    return found


def at(value: Json | Mapping[str, Json], *keys: str) -> Json:
    """The value under nested keys; None where there is none."""
    found: object = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str | int | float | list | dict) else None


def entries(value: Json | Mapping[str, Json], *keys: str) -> dict[str, Json]:
    """The mapping under nested keys; an empty one where there is none."""
    found = at(value, *keys)
    return found if isinstance(found, dict) else {}


def elements(value: Json | Mapping[str, Json], *keys: str) -> list[Json]:
    """The list under nested keys; an empty one where there is none."""
    found = at(value, *keys)
    return found if isinstance(found, list) else []


def number(value: Json) -> float | None:
    """The value if it is a finite number, None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def count_weights(model_folder: Path) -> int:
    """The number of weights in the folder's safetensors files, from their headers; 0 where there are none."""
    total = 0
    for path in model_folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: Json = json.loads(file.read(size))
        for name, tensor in (header if isinstance(header, dict) else {}).items():
            if name != "__metadata__" and isinstance(at(tensor, "shape"), list):
                total += math.prod(side for side in elements(tensor, "shape") if isinstance(side, int))
    return total


def _finished_stage(name: str, folder: Path) -> FinishedStage:
    record = read_record(folder / STAGE_FILE)
    return FinishedStage(
        name, folder, number(at(record, "seconds")) or 0.0, str(at(record, "finished") or ""), entries(record, "facts")
    )


def _fields(line: str, path: Path) -> Mapping[str, Json]:
    try:
        found: Json = json.loads(line)
    except ValueError as error:
        raise DataError(str(path), f"has a line that is not JSON ({error})", "run the recipe again") from error
    return found if isinstance(found, dict) else {}
