"""Queries on a call ledger: totals, failures, single calls. Printing is left to `zephyr calls`."""

import sqlite3
from typing import NamedTuple

from zephyr.teachers.ledger.writer import CallRow


class TeacherSummary(NamedTuple):
    """The calls of one teacher, and their cost."""

    teacher: str
    requests: int
    answered: int
    unanswered: int
    tries: int
    failed_tries: int
    prompt_tokens: int
    completion_tokens: int
    price: float
    tries_of_estimated_cost: int
    mean_seconds: float


class FailedTries(NamedTuple):
    """Tries that failed for one reason."""

    tries: int
    requests: int
    answered_later: int
    error: str


def summarize(ledger: sqlite3.Connection) -> list[TeacherSummary]:
    """One line per teacher, by name."""
    rows = ledger.execute(
        """
        SELECT totals.teacher, asked.requests, asked.answered, asked.requests - asked.answered, tries,
            tries - answers, prompt_tokens, completion_tokens, price, estimated, round(latency_seconds / tries, 3)
        FROM totals JOIN (
            SELECT teacher, count(*) AS requests, sum(answered) AS answered FROM (
                SELECT teacher, max(finish_reason <> 'error') AS answered FROM calls GROUP BY teacher, request_hash
            ) GROUP BY teacher
        ) AS asked ON asked.teacher = totals.teacher ORDER BY totals.teacher
        """
    )
    return [TeacherSummary(*row) for row in rows]


def failed_tries(ledger: sqlite3.Connection, limit: int) -> list[FailedTries]:
    """The reasons why tries failed, the most frequent first."""
    rows = ledger.execute(
        """
        SELECT count(*), count(DISTINCT request_hash), count(DISTINCT CASE WHEN EXISTS (
                SELECT 1 FROM calls AS answers INDEXED BY answers
                WHERE answers.finish_reason <> 'error' AND answers.request_hash = calls.request_hash
            ) THEN request_hash END), error
        FROM calls WHERE finish_reason = 'error' GROUP BY error ORDER BY 1 DESC, error LIMIT ?
        """,
        (limit,),
    )
    return [FailedTries(*row) for row in rows]


def find_calls(ledger: sqlite3.Connection, begins: str, limit: int) -> list[CallRow]:
    """The tries of requests whose hash begins with `begins`, in order; the newest tries if it is empty."""
    columns = ", ".join(CallRow._fields)
    if begins:
        query = f"SELECT {columns} FROM calls WHERE substr(request_hash, 1, ?) = ? ORDER BY id LIMIT ?"  # noqa: S608
        rows = ledger.execute(query, (len(begins), begins, limit))
    else:
        rows = ledger.execute(f"SELECT {columns} FROM calls ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
    return [CallRow(*row) for row in rows]
