"""A function called in a process of its own, so that a crash of a library it uses is an error like others.

The process has limits on time and memory, and what libraries write to its terminal is kept from the user's. This file
is run as that process too; arguments and results go through pipes as pickles, of this program for this program.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from zephyr.errors import ZephyrError

R = TypeVar("R")

_TELLING = ("error", "failed", "assert", "terminate")
_MOST_REASON = 200


@dataclass(frozen=True)
class Limits:
    """The most that a process may take: seconds by the clock, and bytes of memory of its own (on Linux)."""

    seconds: float
    num_bytes: int


class ProcessFaultError(Exception):
    """A process that ended without a result; the text says how, as the end of a sentence."""

    def __init__(self, how: str, *, crashed: bool) -> None:
        super().__init__(how)
        self.crashed = crashed  # by a signal


def call_apart(function: Callable[[], R], limits: Limits) -> R:
    """What a function returns that can be pickled. Raises ProcessFaultError, and the function's own ZephyrErrors.

    Whatever ends this call ends the process.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as noise:
        pickle.dump((limits, function), given)
        given.seek(0)
        try:
            done = subprocess.run(  # noqa: S603 - this file, by the interpreter that runs already
                [sys.executable, "-P", "-m", __name__],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=noise,
                timeout=limits.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ProcessFaultError(f"took over {limits.seconds:.0f} seconds", crashed=False) from None
        if done.returncode:
            noise.seek(0)
            raise _fault(done.returncode, noise.read().decode(errors="replace"))
    returned, error = pickle.loads(done.stdout)  # noqa: S301 - of this program
    if error is not None:
        raise error
    return cast("R", returned)


def _fault(code: int, noise: str) -> ProcessFaultError:
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else "failed"
    lines = [line.strip() for line in noise.splitlines() if any(word in line.lower() for word in _TELLING)]
    return ProcessFaultError(": ".join((how, *(line[:_MOST_REASON] for line in lines[-1:]))), crashed=code < 0)


# ---- in the process ----


def _serve() -> None:
    """Call the function and write what it returned or raised."""
    # What libraries print is no result.
    results = os.dup(1)
    os.dup2(2, 1)
    limits, function = pickle.load(sys.stdin.buffer)  # noqa: S301 - of this program
    if sys.platform != "win32":
        import resource  # not on Windows, where only the process that waits limits the time

        resource.setrlimit(resource.RLIMIT_DATA, (limits.num_bytes, limits.num_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    returned, error = None, None
    try:
        returned = function()
    except ZephyrError as raised:
        error = raised
    with os.fdopen(results, "wb") as stream:
        pickle.dump((returned, error), stream)


if __name__ == "__main__":
    _serve()
