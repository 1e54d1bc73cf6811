"""What nobody may publish by accident: keys, and paths of a machine, found in lines of text."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from zephyr.errors import DataError
from zephyr.records.fields import brief

# Words of a language, among which a path may be one of many.
_VOCABULARY = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"}
# What these say of paths is content.
_CONTENT = (".jsonl", ".csv", ".sqlite")
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~%-])(?:/(?:home|Users|root|mnt|media|scratch|workspace|work|tmp|private|srv|nfs|lustre|gpfs)/[\w.@+-]+"
    r"|file:///?[\w.-]+|[A-Za-z]:\\{1,2}Users\\{1,2}[\w.-]+)"
)
_KEY = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def refuse_private_lines(name: str, lines: Iterator[str]) -> None:
    """Raise DataError for the first line of a file with a key, or with a path of a machine."""
    # What rows say of paths is content, and a vocabulary has them too: there only this machine's own are looked for.
    is_prose = name.rpartition("/")[2] not in _VOCABULARY and not name.endswith(_CONTENT)
    own = own_folders()
    secrets = [value for key, value in os.environ.items() if key.endswith(("_KEY", "_TOKEN")) and len(value) > 11]
    for count, line in enumerate(lines, 1):
        if _KEY.search(line) or any(secret in line for secret in secrets):
            raise DataError(
                f"{name}, line {count}", "holds a key", "take it out, and revoke it if others could read it"
            )
        found = path_in(line, own, is_prose=is_prose)
        if found is not None:
            remedy = "write it without, or leave the file out: --exclude FILE"
            raise DataError(f"{name}, line {count}", f"holds a path of a machine, {brief(found)}", remedy)


def own_folders() -> list[str]:
    """The home and the working folder of whoever runs this."""
    return [folder for folder in (str(Path.home()), str(Path.cwd())) if len(folder) > 1]


def path_in(line: str, own: Sequence[str], *, is_prose: bool = True) -> str | None:
    """The first path of a machine in a line; where it is not prose, only below the `own` folders."""
    path = _LOCAL_PATH.search(line) if is_prose else None
    return path[0] if path else next((one for one in own if f"{one}/" in line), None)
