"""Requests that have their answer, kept on disk, so that an interrupted evaluation goes on where it stopped.

A SQLite file of answers by the hash of model and request; a batch is in it whole or not at all.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from zephyr.errors import DataError

# What an answer is made of: a log-prob with "is greedy", a log-prob alone, or a text.
FinishedAnswer: TypeAlias = "tuple[float, bool] | float | str"

_LAYOUT = "CREATE TABLE IF NOT EXISTS finished (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"


class FinishedRequests:
    """Answers by request, for one model (`of`: its hash and whatever else decides answers); None keeps nothing."""

    def __init__(self, path: Path | None, *, of: str) -> None:
        self._of = of
        self._path = path
        if path is None:
            self._file = sqlite3.connect(":memory:")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path)
        try:
            with self._file:
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.execute(_LAYOUT)
        except sqlite3.DatabaseError as error:
            remedy = "remove it, or name another folder with --out"
            raise DataError(str(path), f"cannot be read as a file of finished requests ({error})", remedy) from error

    def key(self, kind: str, *parts: object) -> str:
        """What a request is filed under; `parts` are what JSON can say."""
        return hashlib.sha256(json.dumps([self._of, kind, *parts], sort_keys=True).encode()).hexdigest()

    def known(self, keys: Sequence[str]) -> dict[str, FinishedAnswer]:
        """The answers there are, by key."""
        found: dict[str, FinishedAnswer] = {}
        for key in keys:
            row = self._file.execute("SELECT answer FROM finished WHERE request = ?", (key,)).fetchone()
            if row is not None:
                answer = json.loads(row[0])
                found[key] = (float(answer[0]), bool(answer[1])) if isinstance(answer, list) else answer
        return found

    def add(self, answers: Mapping[str, FinishedAnswer]) -> None:
        """Write the answers to the disk, all of them or none."""
        with self._file:
            rows = [(key, json.dumps(answer)) for key, answer in answers.items()]
            self._file.executemany("INSERT OR REPLACE INTO finished VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
