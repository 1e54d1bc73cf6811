"""Processes of one torchrun before their process group exists: rank 0 prepares, the others wait for its files."""

import os
import time
from collections.abc import Callable

from zephyr.errors import ResourceError

PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 24 * 3600.0


def is_leader() -> bool:
    """Whether this process is rank 0, or alone."""
    return os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether no other process of a torchrun waits for what this one makes."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def wait_until(is_there: Callable[[], bool], what: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until it is there; torchrun ends this process if rank 0 fails. Raises ResourceError after the patience."""
    ends = time.monotonic() + patience_seconds
    while not is_there():
        if time.monotonic() > ends:
            raise ResourceError(what, f"did not appear within {patience_seconds:.0f} s", "see the output of rank 0")
        time.sleep(PAUSE_SECONDS)
