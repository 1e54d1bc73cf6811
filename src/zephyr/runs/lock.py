"""One process a run folder: a lock that the operating system drops when its holder dies."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zephyr.errors import ResourceError

LOCK = ".lock"
HOLDER = ".lock-holder"


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """The folder for this process alone while the block runs. Raises ResourceError where another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = folder / HOLDER
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise ResourceError(
            str(folder), f"is in use by {who}", "wait for it, stop it, or give this run another name"
        ) from error
    try:
        # For the message above alone; what counts is the lock, which does not outlive its process.
        (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()
