"""One door for a run's numbers: a JSON file always, and the trackers the user names.

The others' packages are loaded only where they are named, with their telemetry switched off. On several
ranks, rank 0 alone opens trackers.
"""

import importlib
import importlib.util
import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from zephyr.atomic import replace_text
from zephyr.errors import RecipeError, ResourceError, did_you_mean
from zephyr.runs.layout import TRAIN_LOG

# Two runs of one name must not flow into each other at the others' side, but a resumed one must go on.
RUN_ID = "wandb_id.txt"
PROJECT = "zephyr"
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Something that keeps the numbers of a run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a step; each step once, in rising order."""

    def close(self) -> None:
        """Write out what is still held back."""


class TrackedAs(NamedTuple):
    """Where trackers keep a stage: the run as group, the stage and its folder's name, the run's folder, its recipe.

    Their files lie in the run's folder, as that of the stage has another name when it is finished.
    """

    group: str
    stage: str
    folder_name: str
    run_folder: Path
    config: Mapping[str, object]

    @property
    def name(self) -> str:
        """The name of the stage's run at the trackers."""
        return f"{self.group}/{self.stage}"


class Run(NamedTuple):
    """What a tracker may know of its run; `resumed_step` is None for a fresh start.

    `on_step` is called with every step that is logged and its metrics, once the trackers have them. `tracked_as`: None
    for a training outside a recipe's run.
    """

    folder: Path
    name: str
    config: Mapping[str, object]
    resumed_step: int | None = None
    on_step: Callable[[int, Mapping[str, float]], None] | None = None
    tracked_as: TrackedAs | None = None

    def lasting(self, name: str) -> Path:
        """The folder for a tracker's own files, which is there when the run is over."""
        return (self.folder if self.tracked_as is None else self.tracked_as.run_folder) / name


def open_trackers(names: Sequence[str], run: Run) -> Tracker:
    """The JSON file of the run and the named trackers as one; raises RecipeError if one cannot be had.

    Names are those of `TRACKERS`; `jsonl` may be named, and is there anyway.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise RecipeError(
            "report_to",
            f"there is no tracker {unknown[0]!r}{did_you_mean(unknown[0], TRACKERS)}",
            f"choose from {', '.join(TRACKERS)}",
        )
    others = [name for name in dict.fromkeys(names) if name != "jsonl"]
    # Packages first: one that is missing must not leave the log of the run cut.
    for name in others:
        _require_package(name)
    run.folder.mkdir(parents=True, exist_ok=True)
    opened = [TRACKERS[name](run) for name in ("jsonl", *others)]
    return _Together(opened if run.on_step is None else [*opened, _Called(run.on_step)])


class _JsonLines:
    """One JSON line a step in `train_log.jsonl`, handed to the system at once.

    A number that is not finite is written as null, as JSON has no word for it; what it was stands under
    `non_finite`, and the log says so. On resume, lines of steps after the checkpoint are dropped: they come
    again.
    """

    def __init__(self, run: Run) -> None:
        path = run.folder / TRAIN_LOG
        with _disk(path):
            replace_text(path, _lines_through(path, run.resumed_step))
            self._file = path.open("ab", buffering=0)
        self._path = path
        self._last_step = -1 if run.resumed_step is None else run.resumed_step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a line. Raises ValueError for a step that is logged already, ResourceError for a full disk."""
        if step <= self._last_step:
            raise ValueError(f"each step is logged once, in rising order, got {step} after {self._last_step}")
        self._last_step = step
        broken = {name: str(value) for name, value in metrics.items() if not math.isfinite(value)}
        line: dict[str, object] = {"step": step}
        line |= {name: None if name in broken else value for name, value in metrics.items()}
        if broken:
            line["non_finite"] = broken
            _log.warning("step %d: not finite, so written as null: %s", step, broken)
        rest = memoryview(f"{json.dumps(line, allow_nan=False)}\n".encode())
        with _disk(self._path):
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            while rest:
                rest = rest[self._file.write(rest) or 0 :]

    def close(self) -> None:
        self._file.close()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Inside, a disk that is full or fails is a ResourceError naming the file."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            str(path),
            f"the log could not be written, got '{error.strerror}'",
            "make room or repair the disk, then run again: the last checkpoint is kept",
        ) from error


class _TensorBoard:
    """Event files under `tensorboard/RECIPE/STAGE-HASH/` in the run's folder, with the recipe as a text."""

    def __init__(self, run: Run) -> None:
        tensorboard = cast("_Summaries", importlib.import_module("torch.utils.tensorboard"))
        purged = None if run.resumed_step is None else run.resumed_step + 1
        folder = run.lasting("tensorboard")
        if run.tracked_as is not None:
            folder = folder / run.tracked_as.group / run.tracked_as.folder_name
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=purged)
        if run.resumed_step is None:
            text = json.dumps(run.config, indent=1, ensure_ascii=False, default=str)
            self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Remote:
    """A run of trackio or wandb, whose calls have the same shape."""

    def __init__(self, remote: "_RemoteRun") -> None:
        self._remote = remote

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._remote.log(dict(metrics), step=step)

    def close(self) -> None:
        self._remote.finish()


class _Called:
    """A function of the user's as a tracker."""

    def __init__(self, on_step: Callable[[int, Mapping[str, float]], None]) -> None:
        self._on_step = on_step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._on_step(step, dict(metrics))

    def close(self) -> None:
        pass


class _Together:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


class _Nowhere:
    """The tracker of ranks that have nothing to write."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


NOWHERE: Tracker = _Nowhere()


class _Summary(Protocol):
    def update(self, values: dict[str, float]) -> None: ...


class _RemoteRun(Protocol):
    @property
    def summary(self) -> _Summary: ...

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_text(self, tag: str, text_string: str) -> None: ...

    def close(self) -> None: ...


class _Summaries(Protocol):
    def SummaryWriter(self, log_dir: str, *, purge_step: int | None) -> _Writer: ...  # noqa: N802


def _trackio(run: Run) -> Tracker:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    remote = importlib.import_module("trackio").init(
        project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
        name=run.name,
        group=None if run.tracked_as is None else run.tracked_as.group,
        config=dict(run.config),
        resume="never" if run.resumed_step is None else "allow",
        embed=False,
    )
    return _Remote(cast("_RemoteRun", remote))


def _wandb(run: Run) -> Tracker:
    return _Remote(_wandb_run(run, _run_id(run)))


def _wandb_run(run: Run, run_id: str) -> "_RemoteRun":
    """The run at W&B. What the user's environment says of it is left to that: an argument would win over it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = importlib.import_module("wandb")
    tracked, place = run.tracked_as, run.lasting(".")
    place.mkdir(parents=True, exist_ok=True)
    ours = {
        "WANDB_PROJECT": ("project", PROJECT),
        "WANDB_NAME": ("name", run.name),
        "WANDB_RUN_GROUP": ("group", None if tracked is None else tracked.group),
        "WANDB_JOB_TYPE": ("job_type", None if tracked is None else tracked.stage),
        "WANDB_DIR": ("dir", str(place.resolve())),
    }
    remote = wandb.init(
        **{name: value for variable, (name, value) in ours.items() if not os.environ.get(variable)},
        config=dict(run.config),
        id=run_id,
        resume="allow",
        # The numbers are sent, as the user asked; the screen, the code and the repository are not.
        settings=wandb.Settings(console="off", disable_code=True, disable_git=True),
    )
    return cast("_RemoteRun", remote)


TRACKERS: dict[str, Callable[[Run], Tracker]] = {
    "jsonl": _JsonLines,
    "tensorboard": _TensorBoard,
    "trackio": _trackio,
    "wandb": _wandb,
}


def keep_scores(names: Sequence[str], run: Run, step: int, scores: Mapping[str, float]) -> None:
    """Add the scores of a finished run to those trackers in which its last model was trained, as `scores/NAME`.

    Raises RecipeError for a tracker without its package.
    """
    told = {f"scores/{name}": value for name, value in scores.items()}
    for name in dict.fromkeys(names):
        if name == "jsonl":
            continue  # summary.json has them
        _require_package(name)
        if name == "wandb":
            stored = run.folder / RUN_ID
            remote = _wandb_run(run, stored.read_text() if stored.exists() else uuid.uuid4().hex)
            remote.summary.update(told)
            remote.finish()
            continue
        tracker = TRACKERS[name](run)
        tracker.log(step, told)
        tracker.close()


def _run_id(run: Run) -> str:
    """The id at W&B: that of the environment, as an agent of a sweep sets it, else one that a resumed run keeps."""
    path, given = run.folder / RUN_ID, os.environ.get("WANDB_RUN_ID")
    if given or run.resumed_step is None or not path.exists():
        replace_text(path, given or uuid.uuid4().hex)
    return path.read_text()


def _require_package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise RecipeError(
            "report_to",
            f"the tracker {name!r} needs a package that is not installed",
            f"run `pip install {name}`, or take {name!r} out",
        )


def _lines_through(path: Path, step: int | None) -> str:
    """The lines of steps up to `step`; a last line that a crash cut short is not among them."""
    if step is None or not path.exists():
        return ""
    kept = []
    for line in path.read_text().splitlines():
        try:
            logged = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            _log.warning("%s: dropped a line that is no JSON of a step: %.40r", path, line)
            continue
        if logged <= step:
            kept.append(f"{line}\n")
    return "".join(kept)
