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


class Run(NamedTuple):
    """What a tracker may know of its run; `resumed_step` is None for a fresh start.

    `on_step` is called with every step that is logged and its metrics, once the trackers have them.
    """

    folder: Path
    name: str
    config: Mapping[str, object]
    resumed_step: int | None = None
    on_step: Callable[[int, Mapping[str, float]], None] | None = None


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
    """Event files under `tensorboard/` in the run's folder."""

    def __init__(self, run: Run) -> None:
        tensorboard = cast("_Summaries", importlib.import_module("torch.utils.tensorboard"))
        purged = None if run.resumed_step is None else run.resumed_step + 1
        self._writer = tensorboard.SummaryWriter(str(run.folder / "tensorboard"), purge_step=purged)

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


class _RemoteRun(Protocol):
    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def close(self) -> None: ...


class _Summaries(Protocol):
    def SummaryWriter(self, log_dir: str, *, purge_step: int | None) -> _Writer: ...  # noqa: N802


def _trackio(run: Run) -> Tracker:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    remote = importlib.import_module("trackio").init(
        project=PROJECT,
        name=run.name,
        config=dict(run.config),
        resume="never" if run.resumed_step is None else "allow",
        embed=False,
    )
    return _Remote(cast("_RemoteRun", remote))


def _wandb(run: Run) -> Tracker:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = importlib.import_module("wandb")
    remote = wandb.init(
        project=PROJECT,
        name=run.name,
        config=dict(run.config),
        dir=str(run.folder),
        id=_run_id(run),
        resume="allow",
        # The numbers are sent, as the user asked; the screen, the code and the repository are not.
        settings=wandb.Settings(console="off", disable_code=True, disable_git=True),
    )
    return _Remote(cast("_RemoteRun", remote))


TRACKERS: dict[str, Callable[[Run], Tracker]] = {
    "jsonl": _JsonLines,
    "tensorboard": _TensorBoard,
    "trackio": _trackio,
    "wandb": _wandb,
}


def _run_id(run: Run) -> str:
    path = run.folder / RUN_ID
    if run.resumed_step is None or not path.exists():
        replace_text(path, uuid.uuid4().hex)
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
