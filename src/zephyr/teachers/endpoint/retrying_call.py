"""A call from its first try to its reply: concurrency, rate limits, the spend cap, retries and pauses between them.

A single try stands in `chat_client`; which calls there are, and the order of their replies, is left to `teacher`.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from zephyr.errors import TeacherError
from zephyr.judging import required_word
from zephyr.recipe.teacher_section import EndpointSection, PricesSection
from zephyr.teachers.endpoint.chat_client import ChatClient
from zephyr.teachers.endpoint.chat_format import ServerAnswer, body_of, with_schema, written_out
from zephyr.teachers.endpoint.dialect import Dialect
from zephyr.teachers.endpoint.troubles import Trouble
from zephyr.teachers.ledger.cached_teacher import cap_reached
from zephyr.teachers.ledger.prices import likely_prompt_tokens, most_spend, prices_of, spend_of
from zephyr.teachers.protocol import Attempt, Books, ChatReply, ChatRequest, Spend

_log = logging.getLogger(__name__)

_FIRST_CONCURRENCY = 8
_BURST_SECONDS = 1.0
# How long a call waits for a rate limit, whatever its number of tries.
_PATIENCE_SECONDS = 180.0
# A pause as long as this would look like a run that hangs: it is told.
_LONG_PAUSE_SECONDS = 10.0
# How long all other calls wait for the first answer of a server.
_FIRST_ANSWER_SECONDS = 20.0
# A server that cannot be reached by so many tries of the first call is not there.
_TRIES_AT_NOBODY = 3
# A server that has answered none of so many tries will answer no other.
_TRIES_IN_VAIN = 8


@dataclass(frozen=True)
class Backoff:
    """Pauses between the tries of one call: random, up to a bound that doubles.

    Full jitter: AWS Architecture Blog, "Exponential Backoff And Jitter", 2015
    """

    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def pause(self, tries: int, asked: float | None, rng: random.Random) -> float:
        """Seconds to wait after so many tries; at least the `asked` ones that the server requested."""
        drawn = rng.uniform(0, min(self.longest_seconds, self.first_seconds * 2 ** min(tries, 30)))
        return drawn if asked is None else asked + drawn / 10


class AdaptiveConcurrency:
    """A limit of calls in flight: it doubles at first, then grows by one per round, and halves at every overload.

    Additive increase, multiplicative decrease as TCP does: RFC 5681
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(_FIRST_CONCURRENCY, most))
        self.in_flight = 0
        self._most = most
        self._clock = clock
        self._doubles = True
        self._last_cut = -1.0
        self._closed_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, first: bool = False) -> float:
        """Wait for a slot, with `first` ahead of all others that wait; returns the time when the call starts."""
        # One look at the clock decides: a call that waited for its turn where none is in flight would wait for ever.
        while (pause := self._closed_until - self._clock()) > 0 or self.in_flight >= int(self.limit):
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
        """Free the slot and adapt the limit to the outcome; None: the call says nothing about the server's load."""
        self.in_flight -= 1
        if overloaded:
            self._cut(began)
        elif overloaded is not None:
            step = 1.0 if self._doubles else 1.0 / self.limit
            # A limit that is not reached says nothing about a higher one.
            if self.in_flight + 1 >= int(self.limit):
                self.limit = min(self.limit + step, float(self._most))
        self._wake()

    def close_for(self, seconds: float) -> bool:
        """Let no call start for so many seconds; returns whether calls could start by now."""
        was_open = self._clock() >= self._closed_until
        self._closed_until = max(self._closed_until, self._clock() + seconds)
        return was_open

    def _cut(self, began: float) -> None:
        self._doubles = False
        # Calls that began before the last cut say nothing new.
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
    """A rate limit: so many per minute, evenly spaced, in bursts of a second at most; None: no limit."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = 0.0

    def book(self, amount: float = 1.0) -> float:
        """Book the amount; returns the seconds to wait before it may be used."""
        now = self._clock()
        start = max(self._next, now - _BURST_SECONDS)
        self._next = start + amount * self._seconds_each
        return max(0.0, start - now)

    def give_back(self, amount: float) -> None:
        """Return what was booked and not used."""
        self._next -= amount * self._seconds_each


@dataclass
class Acquaintance:
    """Whether the server has ever answered, and how many tries it has left without an answer until then."""

    has_answered: bool = False
    tries_in_vain: int = 0


class ServerLimits(NamedTuple):
    """The limits of a server, as configured and as learned from its replies; kept from call to call."""

    slots: AdaptiveConcurrency
    requests: Pace
    tokens: Pace
    dialect: Dialect
    known: Acquaintance


def fresh_limits(section: EndpointSection) -> ServerLimits:
    """The limits of a server before its first call."""
    slots = AdaptiveConcurrency(section.concurrency)
    paces = Pace(section.requests_per_minute), Pace(section.tokens_per_minute)
    return ServerLimits(slots, *paces, Dialect(section), Acquaintance())


class Caller:
    """Makes calls through an open client and records every try in the books."""

    def __init__(self, client: ChatClient, limits: ServerLimits, books: Books, backoff: Backoff) -> None:
        self._client = client
        self._max_tries = client.address.section.max_tries
        self._prices = prices_of(client.address.section)
        self._backoff = backoff
        self._limits = limits
        self._books = books
        self._rng = random.Random()  # jitter, which must differ between processes
        self._first_call = asyncio.Lock()
        self._end: TeacherError | None = None

    async def call(self, request: ChatRequest) -> ChatReply:
        """The reply to the request.

        Raises TeacherError if no call can succeed, none has in many tries, or the cap leaves no room.
        """
        known = self._books.answered(request)
        if known is not None:
            return known
        if self._limits.known.has_answered or not await self._goes_first():
            return await self._called(request)
        try:
            if self._end is not None:
                raise self._end
            if not self._limits.known.has_answered:
                return await self._called(request)
        finally:
            self._first_call.release()
        return await self._called(request)

    async def _goes_first(self) -> bool:
        """Whether the call goes ahead of all others, so that what fails for all of them is asked once.

        False where the one before takes too long to be waited for.
        """
        try:
            async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
                return await self._first_call.acquire()
        except TimeoutError:
            return False

    async def _called(self, request: ChatRequest) -> ChatReply:
        most = most_spend(request, self._prices)
        number, waited = 1, 0.0
        while True:
            held = await self._hold(most)
            attempt, trouble, is_refused = await self._try(request, most, number)
            self._books.record(request, attempt, most if held else None)
            if trouble is None:
                self._limits.known.has_answered = True
                return attempt.reply
            if is_refused:  # the next try goes without what the server refuses
                continue
            self._limits.known.tries_in_vain += 1
            # A limit that is told is waited for, beyond the tries that anything else is worth.
            is_patient = trouble.is_limit and waited < _PATIENCE_SECONDS and self._max_tries > 1
            nobody_there = not self._limits.known.has_answered and trouble.is_ours and number >= _TRIES_AT_NOBODY
            is_last = trouble.is_final or nobody_there or (number >= self._max_tries and not is_patient)
            if is_last and (trouble.is_fatal or self._is_hopeless(trouble)):
                self._end = _useless(self._client.address.identity, trouble)
                raise self._end
            if is_last:
                return attempt.reply
            pause = self._backoff.pause(number, trouble.pause_seconds, self._rng)
            await asyncio.sleep(pause)
            waited += pause
            number += 1

    def _is_hopeless(self, trouble: Trouble) -> bool:
        """Whether no call has been answered yet, and none is to be expected."""
        known = self._limits.known
        return not known.has_answered and (trouble.is_ours or known.tries_in_vain >= _TRIES_IN_VAIN)

    async def _hold(self, most: Spend) -> bool:
        """Reserve room in the cap; False without a cap. Raises TeacherError if there is no room."""
        hold = self._books.reserve(most)
        if hold is None:
            return False
        refusal = await asyncio.wrap_future(hold)
        if refusal:
            raise cap_reached(self._client.address.identity, refusal)
        return True

    async def _try(self, request: ChatRequest, most: Spend, number: int) -> tuple[Attempt, Trouble | None, bool]:
        """One try, why it failed, and whether for a field that is not sent any more."""
        limits = self._limits
        likely = likely_prompt_tokens(request) + request.max_tokens
        wait = max(limits.requests.book(), limits.tokens.book(likely))
        if wait:
            await asyncio.sleep(wait)
        slot = await limits.slots.acquire(first=number > 1)
        began = time.monotonic()
        is_overload: bool | None = None
        try:
            question, body = limits.dialect.question_of(request), body_of(request, limits.dialect.section)
            if question is not None:
                body = with_schema(body, question)
            got = await self._client.ask(body)
            trouble = got if isinstance(got, Trouble) else None
            is_overload = trouble.is_overload or None if trouble else False
        finally:
            limits.slots.release(slot, overloaded=is_overload)
        if trouble is not None and trouble.is_overload and (pause := trouble.pause_seconds):
            was_open = limits.slots.close_for(pause)
            if was_open and pause >= _LONG_PAUSE_SECONDS:
                _log.warning("%s: no call for %.0f s (%s)", self._client.address.identity, pause, trouble.reason)
        if question is not None and isinstance(got, ServerAnswer):
            got = got._replace(text=written_out(question, got.text, word=required_word(request.messages)))
        attempt = attempt_of(request, got, most, self._prices)
        limits.tokens.give_back(likely - (attempt.spend.tokens if not attempt.is_estimated else likely))
        attempt = attempt._replace(number=number, latency_seconds=time.monotonic() - began)
        return attempt, trouble, trouble is not None and limits.dialect.adapts_to(trouble, body)


def attempt_of(request: ChatRequest, got: ServerAnswer | Trouble, most: Spend, prices: PricesSection) -> Attempt:
    """The try as an entry of the books; a cost that the server does not report counts by its upper bound."""
    if isinstance(got, Trouble):
        reply = ChatReply(request.key, "", "error", got.reason)
        if got.used is not None:
            return Attempt(reply, spend_of(prices, *got.used))
        return Attempt(reply, most if got.may_be_billed else Spend(), is_estimated=got.may_be_billed)
    is_estimated = got.prompt_tokens is None or got.completion_tokens is None
    spend = most if is_estimated else spend_of(prices, got.prompt_tokens or 0, got.completion_tokens or 0)
    reply = ChatReply(
        request.key,
        got.text,
        got.finish_reason,
        prompt_tokens=spend.prompt_tokens,
        completion_tokens=spend.completion_tokens,
        reasoning=got.reasoning,
    )
    return Attempt(reply, spend, is_estimated)


def _useless(name: str, trouble: Trouble) -> TeacherError:
    return TeacherError(name, f"no call can succeed ({trouble.reason})", trouble.remedy)
