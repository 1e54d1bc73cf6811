"""Samples that come at any time, written by one engine in a thread of this process.

A sample that nobody wants any more leaves at the next step, and an error of one sample is told to it alone.
"""

from collections import deque
from collections.abc import Collection, Sequence
from threading import Condition, Thread

from transformers import PreTrainedModel

from zephyr.models.engine import MAX_CACHE_TOKENS, MAX_ROWS, DecodingEngine, ready_to_generate
from zephyr.models.samples import Sample

MAX_WAITING = 256


class QueueFullError(Exception):
    """So many samples wait already that no more are taken."""


class ClosedError(Exception):
    """Nothing is written any more: the writer was closed."""


class ContinuousWriter:
    """Writes samples with one model in a thread of its own, until closed; the model must not be used meanwhile."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Collection[int],
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        max_cache_tokens: int = MAX_CACHE_TOKENS,
    ) -> None:
        self._model, self._stops = model, stop_ids
        self._max_rows, self._max_waiting, self._max_cache = max_rows, max_waiting, max_cache_tokens
        self._changed = Condition()
        self._arrived: deque[Sample] = deque()
        self._waiting: deque[Sample] = deque()
        self._is_closed = False
        self._thread = Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether samples are written."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue the samples, all or none. Raises QueueFullError, and ClosedError after `close`."""
        with self._changed:
            if self._is_closed:
                raise ClosedError
            # Those that nobody wants any more are in nobody's way, though the thread has yet to drop them; a copy,
            # since it takes from the queue meanwhile.
            queued = [*self._waiting.copy(), *self._arrived]
            if sum(not one.is_unwanted for one in queued) + len(samples) > self._max_waiting:
                raise QueueFullError
            self._arrived.extend(samples)
            self._changed.notify()

    def close(self, seconds: float | None = None) -> None:
        """End the thread within a step, waiting at most so long; whoever still listens hears a ClosedError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        with ready_to_generate(self._model):
            engine = DecodingEngine(
                self._model,
                self._stops,
                self._waiting,
                max_rows=self._max_rows,
                max_cache_tokens=self._max_cache,
            )
            while self._takes_in(engine):
                engine.step()
        engine.fail([*engine.samples, *self._arrived], ClosedError())

    def _takes_in(self, engine: DecodingEngine) -> bool:
        """Whether there is something to write, once there is, and the engine has it; false when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._arrived or engine.samples)
            self._waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._is_closed
