"""The thread that writes a ledger: waiting rows share a transaction, and reservations under the cap go with them."""

import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import ResourceError
from zephyr.teachers.ledger.file import is_alive, new_owner, open_file
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import Spend

# How long a row may wait for others to share its commit.
_PAUSE_SECONDS = 0.01
# How often a call without room in the cap checks whether another process has given some back.
_LOOK_SECONDS = 0.2
_LOST = "in flight when its process ended; counted at the most it can have cost"


class CallRow(NamedTuple):
    """A row of `calls`, in the order of its columns."""

    request_hash: str
    teacher: str
    finish_reason: str
    attempt: int
    prompt_tokens: int
    completion_tokens: int
    price: float
    is_estimated: bool
    latency_seconds: float
    finished_at: float
    error: str
    response: str
    request: str


_INSERT = f"INSERT INTO calls ({', '.join(CallRow._fields)}) VALUES ({', '.join('?' * len(CallRow._fields))})"  # noqa: S608


@dataclass(frozen=True)
class _Write:
    row: CallRow
    held: Spend | None


@dataclass(frozen=True)
class _Hold:
    most: Spend
    answer: Future[str]


@dataclass(frozen=True)
class _Flush:
    done: Future[None]


_Order = _Write | _Hold | _Flush | None


class LedgerWriter:
    """Takes rows and reservations from any thread. A failed write is raised at the next call of a method."""

    def __init__(self, path: Path, cap: Cap) -> None:
        self._path = path
        self._cap = cap
        self._owner = new_owner()
        self._connection = open_file(path)
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._waiting: list[_Hold] = []
        self._held = Spend()
        self._num_held = 0
        self._failure: ResourceError | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def write(self, row: CallRow, held: Spend | None) -> None:
        """Commit the row soon, and give back what was reserved for it."""
        self._raise_failure()
        self._orders.put(_Write(row, held))

    def hold(self, most: Spend) -> Future[str]:
        """An empty text once `most` is reserved under the cap, or why it never will be."""
        self._raise_failure()
        answer: Future[str] = Future()
        self._orders.put(_Hold(most, answer))
        return answer

    def flush(self) -> None:
        """Wait until all rows written so far are on disk."""
        done: Future[None] = Future()
        self._orders.put(_Flush(done))
        while self._thread.is_alive() and not done.done():
            try:
                done.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                continue
        self._raise_failure()

    def close(self) -> None:
        """Write all rows to disk and close the file; calls still in flight are counted as lost."""
        if self._thread.is_alive():
            self._orders.put(None)
            self._thread.join()
        self._connection.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        orders: list[_Order] = []
        try:
            while None not in orders:
                orders = self._gather()
                self._commit([order for order in orders if order is not None], is_last=None in orders)
        except Exception as error:  # noqa: BLE001 - whatever ends this thread must reach all who wait for it
            remedy = "free disk space, and run again" if isinstance(error, sqlite3.Error) else "run again to continue"
            self._failure = ResourceError(str(self._path), f"cannot be written ({_words_of(error)})", remedy)
            self._refuse_all(orders)

    def _gather(self) -> list[_Order]:
        """What waits, after a moment for more to come."""
        orders: list[_Order] = []
        try:
            orders.append(self._orders.get(timeout=_LOOK_SECONDS if self._waiting else None))
        except queue.Empty:
            return orders
        if orders != [None]:
            time.sleep(_PAUSE_SECONDS)
        while not self._orders.empty():
            orders.append(self._orders.get())
        return orders

    def _commit(self, orders: Sequence[_Write | _Hold | _Flush], *, is_last: bool) -> None:
        writes = [order for order in orders if isinstance(order, _Write)]
        self._waiting += [order for order in orders if isinstance(order, _Hold)]
        answers: list[tuple[_Hold, str]] = []
        if writes or self._waiting or is_last:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, [order.row for order in writes])
            for order in writes:
                if order.held is not None:
                    self._held, self._num_held = self._held.plus(order.held, -1), self._num_held - 1
            if self._cap.is_set:
                answers = self._answer_holds()
                self._write_hold(is_last=is_last)
            self._connection.execute("COMMIT")
        for hold, answer in answers:
            self._waiting.remove(hold)
            hold.answer.set_result(answer)
        for flush in (order for order in orders if isinstance(order, _Flush)):
            flush.done.set_result(None)

    def _answer_holds(self) -> list[tuple[_Hold, str]]:
        """The holds that can be answered now."""
        if not self._waiting:
            return []
        self._write_off_the_dead()
        spent = _sum(self._connection, "totals")
        others = _sum(self._connection, "holds", self._owner)
        answers: list[tuple[_Hold, str]] = []
        for hold in self._waiting:
            in_flight = others.plus(self._held)
            if self._cap.allows(spent.plus(in_flight).plus(hold.most)):
                self._held, self._num_held = self._held.plus(hold.most), self._num_held + 1
                answers.append((hold, ""))
            elif not in_flight.tokens:
                answers.append((hold, _no_room(self._cap, spent, hold.most)))
        return answers

    def _write_hold(self, *, is_last: bool) -> None:
        self._connection.execute("DELETE FROM holds WHERE owner = ?", (self._owner,))
        if self._num_held and is_last:
            self._connection.execute(_INSERT, _lost(self._num_held, self._held))
        elif self._num_held:
            values = (self._owner, self._num_held, *self._held)
            self._connection.execute("INSERT INTO holds VALUES (?, ?, ?, ?, ?)", values)

    def _write_off_the_dead(self) -> None:
        """Count as spent what processes that died may have spent."""
        for owner, calls, *spend in self._connection.execute("SELECT * FROM holds").fetchall():
            if owner != self._owner and not is_alive(owner):
                self._connection.execute("DELETE FROM holds WHERE owner = ?", (owner,))
                self._connection.execute(_INSERT, _lost(calls, Spend(*spend)))

    def _refuse_all(self, orders: list[_Order]) -> None:
        """Pass the failure to everyone who waits for an answer, now and until the ledger is closed."""
        for hold in self._waiting:
            _refuse(hold.answer, self._failure)
        while True:
            for order in orders:
                if isinstance(order, _Hold):
                    _refuse(order.answer, self._failure)
                elif isinstance(order, _Flush) and not order.done.done():
                    order.done.set_result(None)  # who waits for it raises the failure
            if None in orders:
                return
            orders = [self._orders.get()]


def _refuse(answer: Future[str], failure: ResourceError | None) -> None:
    if not answer.done():
        answer.set_exception(failure)


def _words_of(error: Exception) -> str:
    return str(error) if isinstance(error, sqlite3.Error) else f"{type(error).__name__}: {error}"


def _lost(calls: int, spend: Spend) -> CallRow:
    error = f"{calls} calls {_LOST}"
    return CallRow("", "(lost)", "error", 1, *spend, True, 0.0, time.time(), error, "", "")


def _sum(connection: sqlite3.Connection, table: str, but_for: str = "") -> Spend:
    sums = "total(prompt_tokens), total(completion_tokens), total(price)"
    query = f"SELECT {sums} FROM {table}"  # noqa: S608 - the names stand in this file
    if but_for:
        prompt, completion, price = connection.execute(f"{query} WHERE owner <> ?", (but_for,)).fetchone()
    else:
        prompt, completion, price = connection.execute(query).fetchone()
    return Spend(int(prompt), int(completion), float(price))


def _no_room(cap: Cap, spent: Spend, most: Spend) -> str:
    if cap.max_tokens is not None and spent.tokens + most.tokens > cap.max_tokens:
        return f"{spent.tokens} of {cap.max_tokens} tokens are spent, and the next call may take {most.tokens}"
    return f"{spent.price:.4f} of {cap.max_price} are spent, and the next call may cost {most.price:.4f}"
