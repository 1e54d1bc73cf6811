"""A teacher with a ledger: a request that was answered once is never sent again.

Failures are recorded and tried again by the next run; they never count as answers.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zephyr.errors import TeacherError
from zephyr.recipe.teacher_section import PricesSection
from zephyr.teachers.ledger.ledger import Ledger, request_hash
from zephyr.teachers.ledger.prices import likely_prompt_tokens, most_spend, spend_of
from zephyr.teachers.protocol import (
    Attempt,
    BookkeepingTeacher,
    ChatReply,
    ChatRequest,
    Spend,
    Teacher,
    UnorderedTeacher,
)

_REPLIES_A_READ = 256


class CallEstimate(NamedTuple):
    """The calls that the requests would take, and an estimate of their tokens and price."""

    requests: int
    answered: int  # in the ledger already
    repeated: int  # equal to another request, so not sent again
    calls: int
    likely_prompt_tokens: int
    most: Spend  # an upper bound for all calls, without retries


class LedgeredTeacher:
    """A teacher whose answers are kept in a ledger, and taken from it when the same request comes again.

    `identity` names this teacher's answers in the ledger: for a model that may change under its name, give what it was
    made from. Equal requests, seed included, have one answer.
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
        """One reply for every request, in order. Raises TeacherError if the cap leaves no room for the next call."""
        self._ledger.flush()
        hashes = [request_hash(self.identity, request) for request in requests]
        rows = self._ledger.find(dict.fromkeys(hashes))
        # By hash without an answer, the index of its first request; later equal ones share its reply.
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

    def estimate(self, requests: Sequence[ChatRequest]) -> CallEstimate:
        """An estimate of what answering the requests would take; nothing is sent."""
        self._ledger.flush()
        by_hash = {request_hash(self.identity, request): request for request in requests}
        known = self._ledger.find(by_hash)
        to_ask = [request for wanted, request in by_hash.items() if wanted not in known]
        most = Spend()
        for request in to_ask:
            most = most.plus(most_spend(request, self._prices))
        likely = sum(map(likely_prompt_tokens, to_ask))
        return CallEstimate(len(requests), len(known), len(requests) - len(by_hash), len(to_ask), likely, most)

    def _known(self, rows: Sequence[int]) -> Iterator[ChatReply]:
        for start in range(0, len(rows), _REPLIES_A_READ):
            yield from self._ledger.replies(rows[start : start + _REPLIES_A_READ])

    def _ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatReply]:
        books = self._ledger.books(self.identity)
        if isinstance(self._teacher, BookkeepingTeacher):
            yield from self._teacher.answer_with_books(requests, books)
            return
        made, early = _as_made(self._teacher, requests), dict[int, ChatReply]()
        num_made = 0
        for wanted in range(len(requests)):
            while wanted not in early:
                most = most_spend(requests[num_made], self._prices)
                hold = books.reserve(most)
                refusal = hold.result() if hold is not None else ""
                if refusal:
                    raise cap_reached(self.name, refusal)
                began = time.monotonic()
                index, reply = next(made, (None, None))
                if index is None or reply is None:
                    raise ValueError(f"{self.name} answered fewer than the {len(requests)} requests")
                spend = spend_of(self._prices, reply.prompt_tokens, reply.completion_tokens)
                attempt = Attempt(reply, spend, latency_seconds=time.monotonic() - began)
                books.record(requests[index], attempt, None if hold is None else most)
                early[index] = reply
                num_made += 1
            yield early.pop(wanted)


def _as_made(teacher: Teacher, requests: Sequence[ChatRequest]) -> Iterator[tuple[int, ChatReply]]:
    """The replies with the indices of their requests, each as soon as the teacher gives it."""
    if isinstance(teacher, UnorderedTeacher):
        return teacher.answer_as_made(requests)
    return enumerate(teacher.answer(requests))


def cap_reached(name: str, refusal: str) -> TeacherError:
    """The error that stops a run before it would exceed its cap."""
    return TeacherError(name, f"the spend cap would be exceeded: {refusal}", "raise the cap, and run again to continue")


def _repeats(hashes: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {wanted for wanted in hashes if wanted in seen or seen.add(wanted)}  # type: ignore[func-returns-value]
