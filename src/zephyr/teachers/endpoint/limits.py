"""How many calls run at once and how fast they start: found out from the server's signs, within what is allowed."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

FIRST_CONCURRENCY = 8
BURST_SECONDS = 1.0


class AdaptiveConcurrency:
    """Slots for calls in flight: doubled at first, then one more a round, halved at every sign of overload.

    Additive increase, multiplicative decrease as TCP does: RFC 5681
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        if most < 1:
            raise ValueError(f"concurrency is at least 1, got {most}")
        self.limit = float(min(FIRST_CONCURRENCY, most))
        self.in_flight = 0
        self._most = most
        self._clock = clock
        self._doubles = True
        self._last_cut = -1.0
        self._closed_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, first: bool = False) -> float:
        """When the call starts; waits for a slot, with `first` before all who wait already."""
        while self.in_flight >= int(self.limit) or self._clock() < self._closed_until:
            pause = self._closed_until - self._clock()
            if pause > 0:
                await asyncio.sleep(pause)
                continue
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
            try:
                await turn
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        self.in_flight += 1
        return self._clock()

    def release(self, began: float, *, overloaded: bool | None) -> None:
        """Nothing; the slot is free, and the limit follows what the call met; None says nothing of the server."""
        self.in_flight -= 1
        if overloaded:
            self._cut(began)
        elif overloaded is not None:
            step = 1.0 if self._doubles else 1.0 / self.limit
            # A limit that nobody makes use of is not tried out.
            if self.in_flight + 1 >= int(self.limit):
                self.limit = min(self.limit + step, float(self._most))
        self._wake()

    def close_for(self, seconds: float) -> None:
        """Nothing; no call starts for so long."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def _cut(self, began: float) -> None:
        self._doubles = False
        # Calls that began before the last cut tell nothing new.
        if began > self._last_cut:
            self.limit = max(1.0, self.limit / 2)
            self._last_cut = self._clock()

    def _wake(self) -> None:
        free = int(self.limit) - self.in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1


class Pace:
    """So many a minute, evenly, with no more than a second's worth at once."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = 0.0

    def book(self, amount: float = 1.0) -> float:
        """How many seconds to wait before so many may be used; they are booked."""
        now = self._clock()
        start = max(self._next, now - BURST_SECONDS)
        self._next = start + amount * self._seconds_each
        return max(0.0, start - now)

    def give_back(self, amount: float) -> None:
        """Nothing; so many of what was booked were not used."""
        self._next -= amount * self._seconds_each
