"""When a checkpoint is due by the clock: often enough that a crash loses little, and never so often that it slows."""

import time
from collections.abc import Callable

# Saving may take at most this share of the time.
MOST_SHARE = 0.05


class SaveClock:
    """The time since the last checkpoint, and what one costs. Each rank has one; that of rank 0 decides."""

    def __init__(self, every_seconds: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every_seconds
        self._clock = clock
        self._last = clock()
        self._cost = 0.0

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever due."""
        return self._every is None

    def is_due(self) -> bool:
        """Whether the last checkpoint is long enough ago, also as measured by what it took."""
        if self._every is None:
            return False
        return self._clock() - self._last >= max(self._every, self._cost / MOST_SHARE)

    def save(self, write: Callable[[], object]) -> None:
        """Nothing; afterwards `write` has run, and the next time counts from here."""
        began = self._clock()
        write()
        self._last = self._clock()
        self._cost = self._last - began
