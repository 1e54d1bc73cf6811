"""How far a long work is: a bar with the time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0
# A line says no time left before so much of the work, and more than its first step, was timed: these mislead. Of
# answers that are written together, the first to end are few and late.
SECONDS_BEFORE_ESTIMATE = 1.0
PERCENT_BEFORE_ESTIMATE = 3
SECONDS_OF_ANY_ESTIMATE = 120.0


class Display(Protocol):
    """A progress display that a loop updates with its number of finished steps."""

    def update(self, step: int, loss: float | None = None) -> None:
        """Show that `step` steps are done, and the newest loss; without one the last stays."""


@contextmanager
def show_progress(
    label: str,
    num_steps: int,
    *,
    first_step: int = 0,
    stream: TextIO | None = None,
    seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Display]:
    """The progress display of `num_steps` steps, `first_step` of them done before; on stderr by default.

    The time left follows from the steps done here, not from those of before. On several ranks, rank 0 alone
    shows it, and the others take `SILENT`.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield _Lines(label, num_steps, first_step, stream, seconds_between_lines, clock)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(file=stream), get_time=clock) as progress:
        task = progress.add_task(label, total=num_steps, completed=first_step, loss="")
        yield _Bar(progress, task)


class _Bar:
    """A bar that rich draws."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, step: int, loss: float | None = None) -> None:
        if loss is None:
            self._progress.update(self._task, completed=step)
        else:
            self._progress.update(self._task, completed=step, loss=f"loss {loss:.4f}")


@dataclass
class _Lines:
    """Plain lines for logs: at the first step, at the last, and between them not more often than asked."""

    label: str
    num_steps: int
    first_step: int
    stream: TextIO
    pause_seconds: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._next_line = self._began
        self._loss = ""

    def update(self, step: int, loss: float | None = None) -> None:
        if loss is not None:
            self._loss = f", loss {loss:.4f}"
        now = self.clock()
        if now < self._next_line and step < self.num_steps:
            return
        self._next_line = now + self.pause_seconds
        percent = 100 * step // max(self.num_steps, 1)
        line = f"{self.label}: step {step} of {self.num_steps} ({percent} %){self._loss}{self._time(step, now)}"
        # Lines are read while the work goes on, often through a pipe.
        print(line, file=self.stream, flush=True)

    def _time(self, step: int, now: float) -> str:
        elapsed = now - self._began
        if step >= self.num_steps:
            return f", took {timedelta(seconds=round(elapsed))}"
        done = step - self.first_step
        is_small = 100 * done < PERCENT_BEFORE_ESTIMATE * (self.num_steps - self.first_step)
        needed = SECONDS_OF_ANY_ESTIMATE if is_small else SECONDS_BEFORE_ESTIMATE
        if done <= 1 or elapsed < needed:
            return ""
        return f", {timedelta(seconds=round(elapsed / done * (self.num_steps - step)))} left"


class _Silent:
    """A display for ranks that have nothing to say."""

    def update(self, step: int, loss: float | None = None) -> None:
        pass


SILENT: Display = _Silent()
