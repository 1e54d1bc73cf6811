"""A call from its first try to its reply: paces, slots, the spend cap, tries and the pauses between them.

What a single try is stands in `chat_client`; which calls there are, and in which order replies are given, is left
to `endpoint`.
"""

import asyncio
import random
import time
from typing import NamedTuple

from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import EndpointSection, PricesSection
from zephyr.teachers.endpoint.chat_client import ChatClient
from zephyr.teachers.endpoint.chat_format import Answered, body_of
from zephyr.teachers.endpoint.limits import AdaptiveConcurrency, Pace
from zephyr.teachers.endpoint.retries import Backoff, Trouble
from zephyr.teachers.endpoint.structured import ResponseForms, with_schema, written_out
from zephyr.teachers.ledger.cached_teacher import cap_reached
from zephyr.teachers.ledger.prices import likely_prompt_tokens, most_spend, prices_of, spend_of
from zephyr.teachers.protocol import Attempt, Books, ChatReply, ChatRequest, Spend


class Limits(NamedTuple):
    """What is learnt about a server, and kept from call to call."""

    slots: AdaptiveConcurrency
    requests: Pace
    tokens: Pace
    forms: ResponseForms


def fresh_limits(section: EndpointSection) -> Limits:
    """The limits of a server that nothing is known of."""
    slots = AdaptiveConcurrency(section.concurrency)
    forms = ResponseForms(is_wanted=section.structured)
    return Limits(slots, Pace(section.requests_per_minute), Pace(section.tokens_per_minute), forms)


class Caller:
    """Makes calls through an open client and writes every try into the books."""

    def __init__(self, client: ChatClient, limits: Limits, books: Books, backoff: Backoff) -> None:
        self._client = client
        self._max_tries = client.address.section.max_tries
        self._prices = prices_of(client.address.section)
        self._backoff = backoff
        self._limits = limits
        self._books = books
        self._dice = random.Random()  # jitter, which must differ between processes
        self._has_answered = False

    async def call(self, request: ChatRequest) -> ChatReply:
        """The reply to the request; TeacherError if no call can succeed as things stand."""
        known = self._books.answered(request)
        if known is not None:
            return known
        most = most_spend(request, self._prices)
        for number in range(1, self._max_tries + 1):
            held = await self._hold(most)
            attempt, trouble = await self._try(request, most, number)
            self._books.record(request, attempt, most if held else None)
            if trouble is None:
                self._has_answered = True
                return attempt.reply
            if trouble.is_ours and not self._has_answered and (trouble.is_final or number == self._max_tries):
                raise _useless(self._client.address.identity, trouble)
            if trouble.is_final:
                break
            if number < self._max_tries:
                await asyncio.sleep(self._backoff.pause(number, trouble.pause_seconds, self._dice))
        return attempt.reply

    async def _hold(self, most: Spend) -> bool:
        """Whether room in the cap is held for a call now; TeacherError if there is no room."""
        hold = self._books.reserve(most)
        if hold is None:
            return False
        refusal = await asyncio.wrap_future(hold)
        if refusal:
            raise cap_reached(self._client.address.identity, refusal)
        return True

    async def _try(self, request: ChatRequest, most: Spend, number: int) -> tuple[Attempt, Trouble | None]:
        limits = self._limits
        likely = likely_prompt_tokens(request) + request.max_tokens
        wait = max(limits.requests.book(), limits.tokens.book(likely))
        if wait:
            await asyncio.sleep(wait)
        slot = await limits.slots.acquire(first=number > 1)
        began = time.monotonic()
        is_overload: bool | None = None
        try:
            got = await self._ask(request)
            trouble = got if isinstance(got, Trouble) else None
            is_overload = trouble.is_overload or None if trouble else False
        finally:
            limits.slots.release(slot, overloaded=is_overload)
        if trouble is not None and trouble.is_overload and trouble.pause_seconds:
            limits.slots.close_for(trouble.pause_seconds)
        attempt = attempt_of(request, got, most, self._prices)
        limits.tokens.give_back(likely - (attempt.spend.tokens if not attempt.is_estimated else likely))
        return attempt._replace(number=number, latency_seconds=time.monotonic() - began), trouble

    async def _ask(self, request: ChatRequest) -> Answered | Trouble:
        body = body_of(request, self._client.address.section)
        question = self._limits.forms.question_of(request)
        if question is None:
            return await self._client.ask(body)
        got = await self._client.ask(with_schema(body, question))
        if isinstance(got, Trouble):
            # The next try goes without.
            return got._replace(is_final=False) if self._limits.forms.was_refused(got) else got
        return got._replace(text=written_out(question, got.text))


def attempt_of(request: ChatRequest, got: Answered | Trouble, most: Spend, prices: PricesSection) -> Attempt:
    """The try in the form of the books; what the server does not say is counted at the most."""
    if isinstance(got, Trouble):
        reply = ChatReply(request.key, "", "error", got.reason)
        return Attempt(reply, most if got.may_be_billed else Spend(), is_estimated=got.may_be_billed)
    is_estimated = got.prompt_tokens is None or got.completion_tokens is None
    spend = most if is_estimated else spend_of(prices, got.prompt_tokens or 0, got.completion_tokens or 0)
    reply = ChatReply(
        request.key,
        got.text,
        got.finish_reason,
        prompt_tokens=spend.prompt_tokens,
        completion_tokens=spend.completion_tokens,
    )
    return Attempt(reply, spend, is_estimated)


def _useless(name: str, trouble: Trouble) -> TeacherError:
    return TeacherError(name, f"no call can succeed ({trouble.reason})", "see to the address, the key and the model")
