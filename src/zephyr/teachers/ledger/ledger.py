"""The call ledger: one row for every try of every call, in an append-only SQLite file.

Several processes may share one. A row is on disk when `flush` returns, or a moment after `record`; a process that
dies loses the rows of that moment. API keys never come here: the endpoint's client keeps them out.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

from zephyr.records.thinking import Spoken, join_thinking
from zephyr.teachers.ledger.file import open_file
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.ledger.writer import CallRow, LedgerWriter
from zephyr.teachers.protocol import Attempt, ChatReply, ChatRequest, Spend, reply_of

_VALUES_A_QUERY = 500
_REPLY = "finish_reason, response, prompt_tokens, completion_tokens"
_ANSWERED = "FROM calls INDEXED BY answers WHERE finish_reason <> 'error'"
_FIND = f"SELECT request_hash, min(id) {_ANSWERED}"
_ANSWER = f"SELECT {_REPLY} {_ANSWERED} AND request_hash = ? ORDER BY id LIMIT 1"


class Total(NamedTuple):
    """The sums over all calls of one teacher."""

    teacher: str
    tries: int
    answers: int
    estimated: int  # tries of unknown cost, counted by their upper bound
    prompt_tokens: int
    completion_tokens: int
    price: float
    latency_seconds: float  # of all tries together


def canonical(request: ChatRequest) -> str:
    """Everything in the request that an answer depends on, as JSON: all but its key."""
    fields = request._asdict()
    del fields["key"]
    if not request.top_logprobs:  # as in ledgers from before there were any
        del fields["top_logprobs"]
    fields["messages"] = [[message.role, message.content] for message in request.messages]
    return json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def request_hash(identity: str, request: ChatRequest) -> str:
    """The hash of a call in the ledger: equal for equal requests to the same teacher."""
    return hashlib.sha256(f"{identity}\n{canonical(request)}".encode()).hexdigest()


class Ledger:
    """An open ledger. Close it, or use it in a `with`; the cap holds for all calls it has ever recorded."""

    def __init__(self, path: Path, cap: Cap | None = None) -> None:
        self.path = path
        self._cap = cap or Cap()
        self._writer = LedgerWriter(path, self._cap)
        self._reading = open_file(path)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write every row to disk and close the file."""
        try:
            self._writer.close()
        finally:
            with self._lock:
                self._reading.close()

    def books(self, identity: str) -> "LedgerBooks":
        """The ledger's books for the teacher of that identity."""
        return LedgerBooks(self, identity)

    def write(self, row: CallRow, held: Spend | None = None) -> None:
        """Commit the row soon, and give back what was reserved for it."""
        self._writer.write(row, held)

    def hold(self, most: Spend) -> Future[str] | None:
        """None without a cap; else an empty text once `most` is reserved, or why it never will be."""
        return self._writer.hold(most) if self._cap.is_set else None

    def flush(self) -> None:
        """Wait until all rows written so far are on disk."""
        self._writer.flush()

    def find(self, hashes: Iterable[str]) -> dict[str, int]:
        """The id of the row with the answer, for every hash that has one."""
        waiting = list(hashes)
        found: dict[str, int] = {}
        for start in range(0, len(waiting), _VALUES_A_QUERY):
            part = waiting[start : start + _VALUES_A_QUERY]
            query = f"{_FIND} AND request_hash IN ({_places(part)}) GROUP BY request_hash"
            found.update(cast("list[tuple[str, int]]", self._query(query, part)))
        return found

    def replies(self, rows: Sequence[int]) -> Iterator[ChatReply]:
        """The answers in these rows, in their order, without keys."""
        for start in range(0, len(rows), _VALUES_A_QUERY):
            part = rows[start : start + _VALUES_A_QUERY]
            query = f"SELECT id, {_REPLY} FROM calls WHERE id IN ({_places(part)})"  # noqa: S608 - all of it stands here
            by_row = {int(str(row)): fields for row, *fields in self._query(query, part)}
            yield from (_reply(by_row[row]) for row in part)

    def answer_to(self, wanted: str) -> ChatReply | None:
        """The answer to the request of that hash, without a key."""
        rows = self._query(_ANSWER, (wanted,))
        return _reply(rows[0]) if rows else None

    def totals(self) -> list[Total]:
        """The sums of every teacher, by name."""
        rows = self._query(f"SELECT {', '.join(Total._fields)} FROM totals ORDER BY teacher")  # noqa: S608
        return [Total(*cast("Total", row)) for row in rows]

    def _query(self, query: str, values: Sequence[str | int] = ()) -> list[tuple[object, ...]]:
        with self._lock:
            return self._reading.execute(query, values).fetchall()


class LedgerBooks:
    """A ledger's rows about one teacher, under the `Books` protocol."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self._ledger = ledger
        self._identity = identity

    def answered(self, request: ChatRequest) -> ChatReply | None:
        """The answer in the ledger, if there is one."""
        found = self._ledger.answer_to(request_hash(self._identity, request))
        return None if found is None else found._replace(key=request.key)

    def reserve(self, most: Spend) -> Future[str] | None:
        """See `Ledger.hold`."""
        return self._ledger.hold(most)

    def record(self, request: ChatRequest, attempt: Attempt, held: Spend | None = None) -> None:
        """Write the try as a row."""
        reply, spend = attempt.reply, attempt.spend
        row = CallRow(
            request_hash(self._identity, request),
            self._identity,
            reply.finish_reason,
            attempt.number,
            spend.prompt_tokens,
            spend.completion_tokens,
            spend.price,
            attempt.is_estimated,
            round(attempt.latency_seconds, 4),
            round(time.time(), 3),
            _storable(reply.error),
            # Thinking is kept beside its answer, in tags; whoever reads the row splits it off again.
            _storable(join_thinking(Spoken(reply.text, reply.reasoning))),
            canonical(request),
        )
        self._ledger.write(row, held)


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _storable(text: str) -> str:
    """The text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _reply(fields: Sequence[object]) -> ChatReply:
    finish_reason, text, prompt_tokens, completion_tokens = cast("tuple[str, str, int, int]", tuple(fields))
    reply = reply_of("", text, "length" if finish_reason == "length" else "stop")
    return reply._replace(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
