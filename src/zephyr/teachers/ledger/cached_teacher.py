"""Any teacher with a ledger before it: what was answered once is never asked again.

Failures are written down and asked again by the next run; they never count as answers.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import PricesSection
from zephyr.teachers.ledger.ledger import Ledger, request_hash
from zephyr.teachers.ledger.prices import likely_prompt_tokens, most_spend, spend_of
from zephyr.teachers.protocol import Attempt, BookkeepingTeacher, ChatReply, ChatRequest, Spend, Teacher

KNOWN_TOGETHER = 256  # known answers that are read at once


class Forecast(NamedTuple):
    """What asking would take: calls to come, and their tokens and price."""

    requests: int
    answered: int  # in the ledger already
    repeated: int  # equal to another request, so not asked again
    calls: int
    likely_prompt_tokens: int
    most: Spend  # an upper bound of all calls, if none is tried twice


class LedgeredTeacher:
    """A teacher whose answers are kept in a ledger, and taken from it when the same is asked again.

    `identity` says whose answers count as this teacher's: for a model that changes under one name give what it
    was made from. Equal requests, seed included, have one answer.
    """

    def __init__(
        self, teacher: Teacher, ledger: Ledger, *, identity: str | None = None, prices: PricesSection | None = None
    ) -> None:
        own = teacher.identity if isinstance(teacher, BookkeepingTeacher) else teacher.name
        self.name = teacher.name
        self.identity = identity or own
        self._teacher = teacher
        self._ledger = ledger
        self._prices = prices or PricesSection()

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for every request, in order; TeacherError if the cap leaves no room for the next call."""
        self._ledger.flush()
        hashes = [request_hash(self.identity, request) for request in requests]
        rows = self._ledger.find(dict.fromkeys(hashes))
        # Where the answer to a hash that is not known comes again, the index of its first request stands for all.
        first: dict[str, int] = {}
        for index, wanted in enumerate(hashes):
            if wanted not in rows:
                first.setdefault(wanted, index)
        fresh = self._ask([requests[index] for index in first.values()])
        again = _repeats(hashes)
        kept: dict[str, ChatReply] = {}
        known = self._known([rows[wanted] for wanted in hashes if wanted in rows])
        for index, (request, wanted) in enumerate(zip(requests, hashes, strict=True)):
            if wanted in rows:
                reply = next(known)
            elif first[wanted] == index:
                reply = next(fresh)
                if wanted in again:
                    kept[wanted] = reply
            else:
                reply = kept[wanted]
            yield reply._replace(key=request.key)
        self._ledger.flush()

    def forecast(self, requests: Sequence[ChatRequest]) -> Forecast:
        """What answering the requests would take, without asking anything."""
        self._ledger.flush()
        by_hash = {request_hash(self.identity, request): request for request in requests}
        known = self._ledger.find(by_hash)
        to_ask = [request for wanted, request in by_hash.items() if wanted not in known]
        most = Spend()
        for request in to_ask:
            most = most.plus(most_spend(request, self._prices))
        likely = sum(map(likely_prompt_tokens, to_ask))
        return Forecast(len(requests), len(known), len(requests) - len(by_hash), len(to_ask), likely, most)

    def _known(self, rows: Sequence[int]) -> Iterator[ChatReply]:
        for start in range(0, len(rows), KNOWN_TOGETHER):
            yield from self._ledger.replies(rows[start : start + KNOWN_TOGETHER])

    def _ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        books = self._ledger.books(self.identity)
        if isinstance(self._teacher, BookkeepingTeacher):
            yield from self._teacher.answer_with_books(requests, books)
            return
        replies = self._teacher.answer(requests)
        for request in requests:
            most = most_spend(request, self._prices)
            hold = books.reserve(most)
            refusal = hold.result() if hold is not None else ""
            if refusal:
                raise cap_reached(self.name, refusal)
            began = time.monotonic()
            reply = next(replies, None)
            if reply is None:
                raise ValueError(f"{self.name} answered fewer than the {len(requests)} requests")
            spend = spend_of(self._prices, reply.prompt_tokens, reply.completion_tokens)
            attempt = Attempt(reply, spend, latency_seconds=time.monotonic() - began)
            books.record(request, attempt, None if hold is None else most)
            yield reply


def cap_reached(name: str, refusal: str) -> TeacherError:
    """The error that ends a run before its cap would be passed."""
    return TeacherError(name, f"the spend cap would be passed: {refusal}", "raise the cap, and run again to go on")


def _repeats(hashes: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {wanted for wanted in hashes if wanted in seen or seen.add(wanted)}  # type: ignore[func-returns-value]
