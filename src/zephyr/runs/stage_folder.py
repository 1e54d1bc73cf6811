"""The folder of a stage: named by the hash of all it depends on, written under a working name, renamed when done.

`stage.json` in it says what it was made from, when, in which time, and what came out. A finished folder is never
changed; a stage whose settings or inputs change gets another name, so both results stay.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from zephyr.atomic import replace_text, sync
from zephyr.errors import CheckpointError
from zephyr.recipe.section import Plain
from zephyr.runs.layout import STAGE_FILE, stage_folder_name

FORMAT = 1
LISTED_CHANGES = 4

Facts: TypeAlias = dict[str, Plain]


@dataclass(frozen=True)
class StageKey:
    """All that the result of a stage depends on: its settings by dotted key, and the hashes of its inputs."""

    stage: str
    settings: dict[str, Plain]
    inputs: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """The name of the finished folder."""
        return stage_folder_name(self.stage, self.digest)

    @property
    def work_name(self) -> str:
        """The name of the folder as long as it is worked in."""
        return f".{self.folder_name}.partial"


@dataclass(frozen=True)
class StageRecord:
    """What `stage.json` holds. `facts` are the numbers that the stage wants remembered."""

    key: StageKey
    seconds: float
    finished: str
    facts: Facts = field(default_factory=dict)


def work_folder(run_folder: Path, key: StageKey) -> Path:
    """Where a stage works until it is whole; the same folder after a crash, so that it can go on."""
    folder = run_folder / key.work_name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish_stage(run_folder: Path, key: StageKey, *, seconds: float, facts: Facts) -> StageRecord:
    """The record of the stage, whose work folder has become its finished one."""
    record = StageRecord(key, round(seconds, 2), datetime.now(UTC).isoformat(timespec="seconds"), facts)
    folder = work_folder(run_folder, key)
    replace_text(
        folder / STAGE_FILE, json.dumps({"format": FORMAT, **asdict(record)}, indent=1, ensure_ascii=False) + "\n"
    )
    folder.rename(run_folder / key.folder_name)
    sync(run_folder)
    return record


def finished(run_folder: Path, key: StageKey) -> StageRecord | None:
    """The record of a finished stage; None if it is not finished. Raises CheckpointError if it has another key."""
    path = run_folder / key.folder_name / STAGE_FILE
    if not path.parent.is_dir():
        return None
    record = _read(path)
    if record.key != key:
        raise CheckpointError(
            str(path), f"was made from other settings or inputs than {key.folder_name}", "remove that folder, run again"
        )
    return record


def why_again(run_folder: Path, key: StageKey) -> str | None:
    """How the newest finished folder of this stage differs from the recipe; None if there is none."""
    earlier = [_read(path) for path in run_folder.glob(f"{key.stage}-*/{STAGE_FILE}")]
    if not earlier:
        return None
    newest = max(earlier, key=lambda record: record.finished)
    before, now = newest.key.settings, key.settings
    names = sorted(before.keys() | now.keys())
    changes = [_change(name, before, now) for name in names if before.get(name) != now.get(name)]
    sources = sorted(newest.key.inputs.keys() | key.inputs.keys())
    changes += [f"{name} is new" for name in sources if newest.key.inputs.get(name) != key.inputs.get(name)]
    more = f" and {len(changes) - LISTED_CHANGES} more" if len(changes) > LISTED_CHANGES else ""
    return ", ".join(changes[:LISTED_CHANGES]) + more


def _change(name: str, before: Mapping[str, Plain], now: Mapping[str, Plain]) -> str:
    """One changed setting in words; a version of Zephyr may have made it new, or have stopped counting it."""
    if name not in now:
        return f"{name} (was {_short(before[name])}) no longer counts"
    if name not in before:
        return f"{name} is new: {_short(now[name])}"
    return f"{name} was {_short(before[name])}, is {_short(now[name])}"


def flatten(settings: Mapping[str, Plain], prefix: str) -> dict[str, Plain]:
    """Nested settings by dotted keys."""
    flat: dict[str, Plain] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}.{name}")
        else:
            flat[f"{prefix}.{name}"] = value
    return flat


def _read(path: Path) -> StageRecord:
    try:
        content = json.loads(path.read_bytes())
        key = content["key"]
        return StageRecord(
            StageKey(str(key["stage"]), dict(key["settings"]), dict(key["inputs"])),
            float(content["seconds"]),
            str(content["finished"]),
            dict(content["facts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error})", "remove that folder to run the stage again"
        ) from error


def _short(value: Plain) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
