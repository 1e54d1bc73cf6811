"""The file of a call ledger: its tables, how a process opens it, and how several are merged into one.

`calls` is append-only. `totals` is kept by a trigger, so that a long ledger opens as fast as a short one. `holds` is
what running processes may still spend on calls in flight.
"""

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psutil

from zephyr.errors import DataError, ResourceError

LEDGER_FORMAT = 1
_APPLICATION = 0x5A_43_41_4C  # "ZCAL", in the file's header
_BUSY_SECONDS = 60.0

_COLUMNS = (
    "request_hash, teacher, finish_reason, attempt, prompt_tokens, completion_tokens, price, is_estimated, "
    "latency_seconds, finished_at, error, response, request"
)

# Short columns stand first: a scan that needs them alone does not read the texts.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    request_hash TEXT NOT NULL,
    teacher TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    price REAL NOT NULL,
    is_estimated INTEGER NOT NULL,
    latency_seconds REAL NOT NULL,
    finished_at REAL NOT NULL,
    error TEXT NOT NULL,
    response TEXT NOT NULL,
    request TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS answers ON calls (request_hash) WHERE finish_reason <> 'error';
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON calls
    BEGIN SELECT raise(ABORT, 'calls are never changed'); END;
CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON calls
    BEGIN SELECT raise(ABORT, 'calls are never removed'); END;
CREATE TABLE IF NOT EXISTS totals (
    teacher TEXT PRIMARY KEY,
    tries INTEGER NOT NULL,
    answers INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    price REAL NOT NULL,
    latency_seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS summing AFTER INSERT ON calls BEGIN
    INSERT INTO totals VALUES (new.teacher, 1, new.finish_reason <> 'error', new.is_estimated, new.prompt_tokens,
        new.completion_tokens, new.price, new.latency_seconds)
    ON CONFLICT (teacher) DO UPDATE SET tries = tries + 1, answers = answers + excluded.answers,
        estimated = estimated + excluded.estimated, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens, price = price + excluded.price,
        latency_seconds = latency_seconds + excluded.latency_seconds;
END;
CREATE TABLE IF NOT EXISTS holds (
    owner TEXT PRIMARY KEY,
    calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    price REAL NOT NULL
) WITHOUT ROWID;
"""


def open_file(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the ledger at `path`, which is created unless it is opened read-only.

    It may be used by several threads, one at a time. Raises DataError for a file of another kind, ResourceError for a
    disk that is full or read-only.
    """
    if read_only and not path.is_file():
        raise DataError(str(path), "there is no such ledger", "give the calls.sqlite of a run folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise _cannot_open(path, error) from error
    try:
        _prepare(connection, read_only=read_only)
    except sqlite3.OperationalError as error:
        connection.close()
        raise _cannot_open(path, error) from error
    except (sqlite3.DatabaseError, _OtherFormatError) as error:
        connection.close()
        raise DataError(str(path), f"is not a call ledger of this version ({error})", "name another file") from error
    return connection


def merge_ledgers(parts: Iterable[Path], merged: Path) -> int:
    """The number of calls in the ledger at `merged`, which is written anew from the parts; these stay as they are."""
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


def _cannot_open(path: Path, error: sqlite3.OperationalError) -> ResourceError:
    remedy = "check that its folder is writable and its disk has room"
    return ResourceError(str(path), f"cannot be opened ({error})", remedy)


class _OtherFormatError(Exception):
    """A SQLite file that is something else."""


def _prepare(connection: sqlite3.Connection, *, read_only: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (written_in,) = connection.execute("PRAGMA user_version").fetchone()
    if application == 0 and not read_only:
        _create(connection)
    elif (application, written_in) != (_APPLICATION, LEDGER_FORMAT):
        raise _OtherFormatError(f"application {application:#x}, format {written_in}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    # A committed row survives a power cut; many rows share a commit, so this costs little.
    connection.execute("PRAGMA synchronous = FULL")


def _create(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise _OtherFormatError("it holds other tables")
    _switch_to_wal(connection)
    pragmas = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {LEDGER_FORMAT};"
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {pragmas} COMMIT;")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, so that readers and a writer do not wait for each other."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            # Two processes create the same ledger: SQLite does not wait here by itself.
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def new_owner() -> str:
    """A name for one opening of a ledger, which identifies the process."""
    started = psutil.Process().create_time()
    return f"{socket.gethostname()} {os.getpid()} {started:.2f} {uuid.uuid4().hex[:8]}"


def is_alive(owner: str) -> bool:
    """Whether the process of that name may still run; always true for a process on another machine."""
    host, pid, started, _ = owner.rsplit(" ", 3)
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
