"""A teacher behind an address: any server that speaks OpenAI's chat completions.

Calls run in a thread with its own event loop, so that the server is kept busy while replies are consumed, and that it
works inside other event loops. Replies come in the order of the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from zephyr.errors import ZephyrError
from zephyr.teachers.endpoint.address import Address
from zephyr.teachers.endpoint.chat_client import ChatClient
from zephyr.teachers.endpoint.retrying_call import Backoff, Caller, fresh_limits
from zephyr.teachers.protocol import Books, ChatReply, ChatRequest, NoBooks

# Most calls that may start before the one whose reply is due; their replies wait in memory.
_AHEAD = 4096
_HAND_OVER_SECONDS = 0.01
_LOOK_SECONDS = 0.02

_Handed = list[tuple[int, ChatReply]]


class EndpointTeacher:
    """Answers with a model behind an address. It remembers the server's limits from call to call."""

    def __init__(self, address: Address, backoff: Backoff | None = None) -> None:
        self.name = address.section.model
        self.identity = address.identity
        self.address = address
        self._backoff = backoff or Backoff()
        self._limits = fresh_limits(address.section)

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order."""
        return self.answer_with_books(requests, NoBooks())

    def answer_with_books(self, requests: Sequence[ChatRequest], books: Books) -> Iterator[ChatReply]:
        """As `answer`, with every try recorded. Raises TeacherError if no call can succeed, or none fits the cap."""
        if not requests:
            return
        run = _Run(self, requests, books)
        with ThreadPoolExecutor(1, thread_name_prefix="endpoint") as thread:
            finished = thread.submit(run.work)
            finished.add_done_callback(lambda _: run.handed.put(None))
            try:
                yield from run.in_order(finished)
            finally:
                run.stop()

    async def call_all(self, run: _Run) -> None:
        """Answer every request of the run, or those until it is stopped."""
        async with ChatClient(self.address) as client:
            caller = Caller(client, self._limits, run.books, self._backoff)
            num_workers = min(self.address.section.concurrency, len(run.requests))
            async with asyncio.TaskGroup() as group:
                for _ in range(num_workers):
                    group.create_task(run.answer_some(caller))


class _Run:
    """The requests of one `answer`, shared by the thread that calls and the one that consumes the replies."""

    def __init__(self, teacher: EndpointTeacher, requests: Sequence[ChatRequest], books: Books) -> None:
        self.requests = requests
        self.books = books
        self.handed: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._teacher = teacher
        self._next = 0
        self._num_taken = 0  # written by the consuming thread, read by the calling one
        self._outbox: _Handed = []
        self._failure: ZephyrError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    def work(self) -> None:
        """Answer all requests and pass the replies on, in the calling thread. Raises the first ZephyrError."""
        asyncio.run(self._main())
        if self._failure is not None:
            raise self._failure

    def in_order(self, finished: Future[None]) -> Iterator[ChatReply]:
        """The replies in the order of the requests, each as soon as possible."""
        early: dict[int, ChatReply] = {}
        while (handed := self.handed.get()) is not None:
            early.update(handed)
            while self._num_taken in early:
                yield early.pop(self._num_taken)
                self._num_taken += 1
        finished.result()

    def stop(self) -> None:
        """Cancel the calls in flight, if there are any."""
        self._is_stopped = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed: all is done.
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def answer_some(self, caller: Caller) -> None:
        """Answer one request after another until none is left. Many of these run at once."""
        while self._next < len(self.requests) and self._failure is None:
            index = self._next
            self._next += 1
            while index - self._num_taken > _AHEAD:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(_LOOK_SECONDS)
            try:
                reply = await caller.call(self.requests[index])
            except ZephyrError as error:
                # Calls in flight may finish: they may be billed.
                if self._failure is None:
                    self._failure = error
            else:
                self._hand_over(index, reply._replace(key=self.requests[index].key))

    def _hand_over(self, index: int, reply: ChatReply) -> None:
        # Handing over wakes the other thread, so the replies of a moment go together.
        if not self._outbox:
            asyncio.get_running_loop().call_later(_HAND_OVER_SECONDS, self._send)
        self._outbox.append((index, reply))

    def _send(self) -> None:
        if self._outbox:
            self.handed.put(self._outbox)
            self._outbox = []

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._teacher.call_all(self))
        if self._is_stopped:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
        finally:
            self._send()
