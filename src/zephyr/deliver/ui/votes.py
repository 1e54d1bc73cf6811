"""Votes on two answers, each synced to disk before it counts as saved; no vote ever overwrites another.

A preference is a pair in the columns of ultrafeedback_binarized, which `zephyr run` trains on. A tie is no preference:
it goes to a file of its own, as one prompt with two answers of the same score.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from filelock import FileLock

from zephyr.atomic import append_line
from zephyr.errors import DataError
from zephyr.records.fields import Json, printable
from zephyr.records.messages import Messages
from zephyr.records.rows import Answer, Preference, Rated
from zephyr.records.writing import to_fields

Choice = Literal["left", "tie", "right"]
VOTE_SOURCE = "zephyr ui"


class VoteFile:
    """The votes of this and earlier sessions in `path`, and their ties beside it in `ties_path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ties_path = path.with_name(f"{path.stem}.ties{path.suffix}")
        _check_folder(path)
        _check_rows(self.path, ("chosen", "rejected"))
        _check_rows(self.ties_path, ("prompt", "answers"))

    def add(self, prompt: Messages, answers: tuple[Answer, Answer], choice: Choice) -> Path:
        """The file that now holds the vote on the answers, the left one first; raises OSError if it cannot be saved."""
        if choice == "tie":
            same = tuple(answer._replace(score=1.0) for answer in answers)
            _append(self.ties_path, to_fields(Rated("", prompt, same, VOTE_SOURCE)))
            return self.ties_path
        chosen, rejected = answers if choice == "left" else reversed(answers)
        texts, models = (chosen.text, rejected.text), (chosen.model, rejected.model)
        pair = Preference("", prompt, texts, (1.0, 0.0), VOTE_SOURCE, models)
        # Whether people favour a side shows from this.
        side: dict[str, Json] = {"chosen_side": choice}
        _append(self.path, to_fields(pair) | side)
        return self.path


def _append(path: Path, fields: Mapping[str, Json]) -> None:
    """Append the row to the file, synced to disk. Raises OSError, the file unchanged, where that fails."""
    line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    # Two pages may write to one file: what is taken back must be our own.
    with FileLock(path.with_name(f".{path.name}.lock")):
        append_line(path, line)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise DataError(printable(str(path)), "its folder does not exist", "make the folder, or name another file")
    # Readers tell what a file is by its name.
    if path.suffix not in {".jsonl", ".ndjson"}:
        raise DataError(printable(str(path)), "is not the name of a JSON-lines file", "use the extension .jsonl")
    place = path if path.exists() else path.parent
    if path.is_dir() or not os.access(place, os.W_OK):
        raise DataError(printable(str(path)), "cannot be written to", "name another file")


def _check_rows(path: Path, needed: tuple[str, ...]) -> None:
    """Check that rows can be added: the file is new, or its last line is a whole row of this kind. Raises DataError."""
    last = _last_line(path)
    if not last.strip():
        return
    try:
        row = json.loads(last)
    except ValueError as error:
        what = "its last line is incomplete"
        raise DataError(printable(str(path)), what, "remove that line, or name another file") from error
    if not isinstance(row, dict) or not set(needed) <= row.keys():
        what = f"holds rows without {' and '.join(needed)}, so they are not votes"
        raise DataError(printable(str(path)), what, "name another file")


def _last_line(path: Path) -> bytes:
    last = b""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                last = line if line.strip() else last
    return last
