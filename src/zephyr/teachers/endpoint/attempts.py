"""One try of a call: what came back and what it cost; and the books that tries are written into.

A teacher that tries more than once, or wants to know before it asks whether it must, writes its own tries;
for all others `ledgered` writes one try a reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from zephyr.teachers.ledger.prices import Spend
from zephyr.teachers.protocol import ChatReply, ChatRequest

if TYPE_CHECKING:
    from concurrent.futures import Future


class Attempt(NamedTuple):
    """A try of a request. With `is_estimated` the server did not say what it cost, and `spend` is the most."""

    reply: ChatReply
    spend: Spend = Spend()
    is_estimated: bool = False
    number: int = 1
    latency_seconds: float = 0.0


class Books(Protocol):
    """Where tries are written, and what is known from tries of before."""

    def answered(self, request: ChatRequest) -> ChatReply | None:
        """The answer somebody has got already; never a failure."""

    def reserve(self, most: Spend) -> Future[str] | None:
        """None if there is no cap; else why there is no room for so much in it, or an empty text once it is held."""

    def record(self, request: ChatRequest, attempt: Attempt, held: Spend | None = None) -> None:
        """Nothing; the try is written soon, and what was held for it is given back."""


class NoBooks:
    """Nothing is known and nothing written."""

    def answered(self, request: ChatRequest) -> ChatReply | None:
        """None."""
        del request
        return None

    def reserve(self, most: Spend) -> Future[str] | None:
        """None: there is no cap."""
        del most
        return None

    def record(self, request: ChatRequest, attempt: Attempt, held: Spend | None = None) -> None:
        """Nothing."""


@runtime_checkable
class BookkeepingTeacher(Protocol):
    """A teacher that writes its own tries. `identity` says who answers, so that others' answers are never taken."""

    name: str
    identity: str

    def answer_with_books(self, requests: Sequence[ChatRequest], books: Books) -> Iterator[ChatReply]: ...
