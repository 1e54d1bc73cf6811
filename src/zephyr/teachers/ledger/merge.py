"""Ledgers of many workers made into one, which can be read and gone on with like any other."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from zephyr.teachers.ledger.file import open_file

_COLUMNS = (
    "request_hash, teacher, finish_reason, attempt, prompt_tokens, completion_tokens, price, is_estimated, "
    "latency_seconds, finished_at, error, response, request"
)


def merge_ledgers(parts: Iterable[Path], merged: Path) -> int:
    """The number of calls in the ledger at `merged`, which is made anew of the parts; these stay as they are."""
    beside = merged.with_name(f"{merged.name}.merging")
    _remove(beside)
    with closing(open_file(beside)) as whole:
        for part in parts:
            with closing(open_file(part, read_only=True)) as one:
                rows = one.execute(f"SELECT {_COLUMNS} FROM calls ORDER BY id")  # noqa: S608 - our own columns
                marks = ", ".join("?" * len(_COLUMNS.split(",")))
                whole.execute("BEGIN")
                whole.executemany(f"INSERT INTO calls ({_COLUMNS}) VALUES ({marks})", rows)  # noqa: S608
                whole.execute("COMMIT")
        ((count,),) = whole.execute("SELECT count(*) FROM calls").fetchall()
        whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _remove(merged)
    beside.rename(merged)
    return int(count)


def _remove(ledger: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(f"{ledger.name}{suffix}").unlink(missing_ok=True)
