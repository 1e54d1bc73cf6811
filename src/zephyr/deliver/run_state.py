"""A run on the hub to be continued on another machine: its finished stages, and where the stage in progress stands.

`push --resumable` puts these files under `run/` in a private repository, with a list of their hashes; `pull` brings
them back byte by byte. The rows that a recipe names are not among them: the run reads them, and compares their hashes,
where it goes on.
"""

import hashlib
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zephyr.atomic import discard, find_damage, replace_text
from zephyr.deliver.private_lines import own_folders, path_in
from zephyr.deliver.push import hub_refusals
from zephyr.deliver.push_files import RepoFiles, Upload, refuse_private
from zephyr.errors import DataError
from zephyr.progress import show_progress
from zephyr.records.fields import Json, brief
from zephyr.runs.layout import LEDGER, LOCK_FILE, STAGE_FILE, stage_folder_name
from zephyr.runs.reader import at, elements, entries, number, read_record

_FOLDER = "run"
_FILES = "files.json"
_FORMAT = 1
_REFERENCE = "reference"
_SUFFIXES = {".csv", ".html", ".jinja", ".json", ".jsonl", ".md", ".npy", ".safetensors", ".sqlite", ".txt"}
_PLACES = {"output_dir": "runs", "data_dir": "."}
_STAGE = re.compile(r"\.[a-z]+-[0-9a-f]{10}\.partial")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COPY = "write data below data_dir and models by their hub id; or copy the folder itself: rsync -a"


class PulledRun(NamedTuple):
    """A run that was brought here: its folder, how far each stage is, and the data that it reads from outside."""

    folder: Path
    stages: dict[str, str]
    sources: list[str]


@dataclass(frozen=True)
class _Listed:
    """The run in a repository at one commit: its name, and its files with size and SHA-256."""

    repo: str
    commit: str
    name: str
    files: dict[str, tuple[int, str]]


# ---- to the hub ----


def state_of(folder: Path, work: Path) -> RepoFiles:
    """All that it takes to continue a run elsewhere. The caller holds its lock; `work`: for copies of its ledgers.

    Raises DataError for a key or a path of this machine in its files.
    """
    lock = _lock_without_places(folder)
    found = RepoFiles("model", replaces=f"{_FOLDER}/*")
    found.uploads.append(Upload(f"{_FOLDER}/{LOCK_FILE}", json.dumps(lock, indent=1, ensure_ascii=False).encode()))
    for path in _state_files(folder, entries(lock, "stages")):
        name = path.relative_to(folder).as_posix()
        content = path if path.suffix != ".sqlite" else _ledger_copy(path, work / name.replace("/", "-"))
        found.uploads.append(Upload(f"{_FOLDER}/{name}", content))
    refuse_private(found)
    names = {one.name for one in found.uploads}
    files: dict[str, Json] = {
        one.name.removeprefix(f"{_FOLDER}/"): {"num_bytes": one.num_bytes, "sha256": _sha256(one.content)}
        for one in found.uploads
    }
    listed = {"format": _FORMAT, "name": str(at(lock, "recipe", "name")), "files": files}
    found.uploads.append(Upload(f"{_FOLDER}/{_FILES}", json.dumps(listed, indent=1).encode()))
    progress = ", ".join(f"{stage} {state}" for stage, state in _progress(folder, lock).items())
    found.notes += [f"to be continued with zephyr pull: {progress}", "left out: rows that the recipe names, caches"]
    others = sum(
        f"{_FOLDER}/{path.relative_to(folder).as_posix()}" not in names for path in folder.glob(f"*/{STAGE_FILE}")
    )
    if others:
        found.notes.append(f"left out: {others} stages of other settings, also of a sweep's other combinations")
    return found


def _lock_without_places(folder: Path) -> dict[str, Json]:
    """The lock file, its folders of this machine taken out. Raises DataError where other settings name some."""
    lock = read_record(folder / LOCK_FILE)
    if not isinstance(lock, dict) or not isinstance(recipe := lock.get("recipe"), dict):
        raise DataError(str(folder / LOCK_FILE), f"is not a {LOCK_FILE}", "run its recipe again")
    moved = {name: place for name, place in _PLACES.items() if Path(str(recipe.get(name))).is_absolute()}
    recipe |= moved
    own = own_folders()
    for key, value in _texts(recipe, ""):
        path = path_in(value, own)
        if path is not None:
            raise DataError(key, f"names a path of this machine, {brief(path)}, so the run is bound to it", _COPY)
    return lock


def _texts(value: Json, key: str) -> Iterator[tuple[str, str]]:
    """The texts of nested settings, each with its dotted key."""
    if isinstance(value, str):
        yield key, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _texts(inner, f"{key}.{name}" if key else str(name))


def _state_files(folder: Path, stages: dict[str, Json]) -> Iterator[Path]:
    """The files of the finished stages, of the work on others, and of what stages share; no caches, locks or logs."""
    if (folder / LEDGER).is_file():
        yield folder / LEDGER
    names = [stage_folder_name(stage, str(at(planned, "key") or "")) for stage, planned in stages.items()]
    for name in (*names, *(f".{name}.partial" for name in names), _REFERENCE):
        top = folder / name
        kept = _kept_checkpoints(top / "train")
        for path in sorted(top.rglob("*")):
            inside = path.relative_to(top).parts
            checkpoint = next((part for part in inside if part.startswith("checkpoint-")), None)
            is_wanted = checkpoint is None or checkpoint in kept
            is_plain = path.is_file() and not path.is_symlink() and ".partial-" not in path.name
            is_hidden = any(part.startswith(".") for part in inside)
            if is_wanted and is_plain and not is_hidden and path.suffix in _SUFFIXES:
                yield path


def _kept_checkpoints(training: Path) -> set[str]:
    """The newest whole checkpoint, and the best one that it knows of."""
    found = (path for path in training.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))
    for path in sorted(found, key=lambda one: -int(one.name.partition("-")[2])):
        if find_damage(path) is None:
            best = number(at(read_record(path / "state.json"), "progress", "best_step"))
            return {path.name} if best is None else {path.name, f"checkpoint-{best:.0f}"}
    return set()


def _ledger_copy(ledger: Path, copy: Path) -> Path:
    """A copy of a ledger with what was not yet merged into its file, and without what processes here had reserved."""
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        if target.execute("SELECT 1 FROM sqlite_master WHERE name = 'holds'").fetchone():
            target.execute("DELETE FROM holds")
            target.commit()
        target.execute("VACUUM")
    return copy


# ---- from the hub ----


def pull_run(repo: str, output_dir: Path) -> PulledRun:
    """The run of a repository, now in `output_dir`; a download that was cut goes on.

    Raises ResourceError for what the hub refuses, DataError for a repository without a run, for files that are not as
    they were pushed, and where another run has that folder.
    """
    with hub_refusals(repo):
        listed = _listed(repo)
        folder = output_dir / listed.name
        if folder.exists():
            if not all(_is_as_listed(folder / name, listed.files[name]) for name in listed.files if name != LOCK_FILE):
                what = "is there already, and is not the run of that repository as it was pushed"
                raise DataError(str(folder), what, "move it away, or choose another folder: --output-dir DIR")
            return _pulled(folder)
        beside = output_dir / f".{listed.name}.pull"
        with show_progress("files", len(listed.files)) as display:
            for count, name in enumerate(listed.files, 1):
                _download(listed, name, beside)
                display.update(count)
    lock = read_record(beside / _FOLDER / LOCK_FILE)
    recipe = entries(lock, "recipe")
    if not isinstance(lock, dict) or recipe.get("name") != listed.name:
        raise DataError(repo, f"its {LOCK_FILE} is of another run than its {_FILES}", "push the run again")
    lock["recipe"] = recipe | {"output_dir": str(output_dir)}
    replace_text(beside / _FOLDER / LOCK_FILE, json.dumps(lock, indent=1, ensure_ascii=False) + "\n")
    (beside / _FOLDER).rename(folder)
    discard(beside)  # the library keeps notes of its own in it
    return _pulled(folder)


def _listed(repo: str) -> _Listed:
    """The run that a repository lists. Raises DataError where it lists none, or files that belong to no run."""
    from huggingface_hub import HfApi, errors, hf_hub_download

    commit = str(HfApi(library_name="zephyr").model_info(repo).sha)
    with tempfile.TemporaryDirectory(prefix="zephyr-pull-") as work:
        try:
            found = read_record(Path(hf_hub_download(repo, f"{_FOLDER}/{_FILES}", revision=commit, local_dir=work)))
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError as error:
            remedy = "push one with zephyr push RUN OWNER/NAME --resumable; a published model is used by its name"
            raise DataError(repo, "holds no run to be continued", remedy) from error
    name, files = str(at(found, "name")), entries(found, "files")
    if at(found, "format") != _FORMAT:
        raise DataError(repo, f"its {_FILES} has a format that this version does not read", "install a newer Zephyr")
    wrong = next((one for one in files if not _is_of_a_run(one)), None)
    if wrong is not None or not _NAME.fullmatch(name) or LOCK_FILE not in files:
        raise DataError(
            repo, f"lists {brief(wrong or name)}, which is no file of a run", "pull from somebody you trust"
        )
    sizes = {one: (int(number(at(what, "num_bytes")) or 0), str(at(what, "sha256"))) for one, what in files.items()}
    return _Listed(repo, commit, name, sizes)


def _is_of_a_run(name: str) -> bool:
    """Whether a file may be written below a run's folder under this name."""
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and "\\" not in name and ":" not in name and path.suffix in _SUFFIXES
    first, *others = path.parts or ("",)
    hidden = [part for part in (*others, *(() if _STAGE.fullmatch(first) else (first,))) if part.startswith(".")]
    return is_inside and not hidden and str(path) == name


def _download(listed: _Listed, name: str, beside: Path) -> None:
    """Get a file, unless it is here. Raises DataError for one that is not as it was listed."""
    from huggingface_hub import hf_hub_download

    place = beside / _FOLDER / name
    if _is_as_listed(place, listed.files[name]):
        return
    hf_hub_download(listed.repo, f"{_FOLDER}/{name}", revision=listed.commit, local_dir=beside)
    if not _is_as_listed(place, listed.files[name]):
        place.unlink(missing_ok=True)
        raise DataError(f"{listed.repo}, {_FOLDER}/{name}", "is not as it was pushed", "push the run again, then pull")


def _is_as_listed(path: Path, listed: tuple[int, str]) -> bool:
    return path.is_file() and path.stat().st_size == listed[0] and _sha256(path) == listed[1]


def _pulled(folder: Path) -> PulledRun:
    lock = read_record(folder / LOCK_FILE)
    stages = entries(lock, "stages")
    sources = {name for stage in stages for name in entries(lock, "stages", stage, "inputs") if name not in stages}
    hub = set(map(str, elements(lock, "hub_sources")))
    local = sorted(name for name in sources if name.rpartition(" (")[0] not in hub)
    return PulledRun(folder, _progress(folder, entries(lock)), local)


def _progress(folder: Path, lock: dict[str, Json]) -> dict[str, str]:
    """How far each stage of a run is, in words."""
    told = {}
    for stage, planned in entries(lock, "stages").items():
        name = stage_folder_name(stage, str(at(planned, "key") or ""))
        work = folder / f".{name}.partial"
        steps = sorted(int(one.partition("-")[2]) for one in _kept_checkpoints(work / "train"))
        if (folder / name / STAGE_FILE).is_file():
            told[stage] = "finished"
        elif steps:
            told[stage] = f"at step {steps[-1]}"
        else:
            told[stage] = "begun" if work.is_dir() else "to be made"
    return told


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
