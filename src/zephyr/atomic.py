"""Files and folders that are whole or not there: written beside their place, hashed, synced, then renamed.

A folder is published with a `manifest.json` that holds the size and SHA-256 of every other file, so damage is
found before anything is read. What a dead process left half-written is removed later; a living one's work is
never touched.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
_READ_BYTES = 1 << 20


class FileRecord(NamedTuple):
    """What a file must be: its size and the SHA-256 of its bytes in hexadecimal."""

    num_bytes: int
    sha256: str


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """The record of a new file made of `chunks`, synced to the disk. Raises an OSError that names the file."""
    digest = hashlib.sha256()
    num_bytes = 0
    try:
        with path.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                num_bytes += memoryview(chunk).nbytes
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A failed write, unlike a failed open, does not say which file it was about.
        raise OSError(error.errno, error.strerror, str(path)) from error
    return FileRecord(num_bytes, digest.hexdigest())


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which at no moment holds a part of it. Raises an OSError that names the file."""
    beside = path.with_name(f"{path.name}.partial-{_owner()}")
    try:
        beside.unlink(missing_ok=True)
        try:
            write_file(beside, [text.encode()])
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        # The file beside it is nothing that a user has heard of.
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_unedited(path: Path, text: str, *, force: bool = False) -> None:
    """Write `text` to `path`, and beside it the hash by which a later call sees that nobody has edited it.

    Raises DataError without ``force`` for a file that was edited since, or that is another's.
    """
    mark = path.with_name(f".{path.name}.sha256")
    if path.is_file() and not force:
        found = path.read_bytes()
        is_ours = mark.is_file() and mark.read_text(encoding="utf-8").strip() == hashlib.sha256(found).hexdigest()
        if not is_ours and found != text.encode():
            what = "was edited, or is not one that Zephyr has written here"
            raise DataError(str(path), what, "overwrite it with --force, or write to another file with --out")
    replace_text(path, text)
    replace_text(mark, f"{hashlib.sha256(text.encode()).hexdigest()}\n")


def append_line(path: Path, text: str) -> None:
    """Append a line to the file, synced to disk; one left unfinished before it is ended first.

    Raises OSError, the file unchanged, where that fails.
    """
    line = f"{text}\n".encode()
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        os.lseek(handle, max(0, size - 1), os.SEEK_SET)
        if size and os.read(handle, 1) != b"\n":
            line = b"\n" + line
        try:
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
            if is_new:
                sync(path.parent)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Make the file's bytes, or the folder's entries (new names, renames), survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle for syncing a folder.
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_folder(final: Path) -> Path:
    """The new, empty folder beside `final` in which this process may write until `publish`."""
    partial = final.with_name(f"{final.name}.partial-{_owner()}")
    # One process writes one folder at a time: what bears its own name is from an earlier life under that id.
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def publish(partial: Path, final: Path, records: Mapping[str, FileRecord]) -> None:
    """Rename the whole folder to `final`; an older folder of that name is removed."""
    files = {name: record._asdict() for name, record in sorted(records.items())}
    text = json.dumps({"format": MANIFEST_FORMAT, "files": files}, indent=1)
    write_file(partial / MANIFEST, [text.encode()])
    sync(partial)
    replaced = final.with_name(f"{final.name}.replaced-{_owner()}")
    if final.exists():
        # A folder cannot be renamed over a full one. Between these two renames the old one is still found,
        # under its second name, by whoever looks for whole folders.
        final.rename(replaced)
    partial.rename(final)
    sync(final.parent)
    discard(replaced)


def discard(folder: Path) -> None:
    """Remove the folder, which at no moment stands half removed under its own name."""
    if not folder.exists():
        return
    if ".partial-" not in folder.name:
        folder = folder.rename(folder.with_name(f"{folder.name}.partial-{_owner()}"))
    shutil.rmtree(folder)


def remove_leftovers(parent: Path) -> list[str]:
    """The names of what was removed: leftovers that dead processes of this machine had begun in `parent`."""
    removed = []
    for path in sorted(parent.iterdir()):
        found = re.fullmatch(r"(?P<final>.+)\.(?P<kind>partial|replaced)-(?P<owner>[^/]+)", path.name)
        if found is None or _may_be_alive(found["owner"]):
            continue
        if found["kind"] == "replaced" and not (parent / found["final"]).exists():
            continue  # It stands in for a folder whose successor never arrived.
        removed.append(path.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return removed


def find_damage(folder: Path, *, part: int = 0, num_parts: int = 1, contents: bool = True) -> str | None:
    """What is wrong with a published folder, naming the file, or None if it is whole.

    With `contents` the bytes are hashed, those of every `num_parts`-th file from `part` on, so that ranks can
    share the work; without it only names and sizes are looked at.
    """
    if folder.is_symlink():
        return f"{folder.name} is a symbolic link"
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            return f"{path.name} is {'a symbolic link' if path.is_symlink() else 'not a plain file'}"
    manifest = _read_manifest(folder / MANIFEST)
    if isinstance(manifest, str):
        return manifest
    # Readers open every tensor file they find, so one that nobody vouches for is damage too.
    strangers = {path.name for path in folder.glob("*.safetensors")} - manifest.keys()
    if strangers:
        return f"{min(strangers)} is not in {MANIFEST}"
    for index, (name, record) in enumerate(sorted(manifest.items())):
        hashed = contents and index % num_parts == part
        damage = _file_damage(folder / name, record, hashed=hashed)
        if damage is not None:
            return damage
    return None


def _file_damage(path: Path, record: FileRecord, *, hashed: bool) -> str | None:
    if not path.exists():
        return f"{path.name} is missing"
    num_bytes = path.stat().st_size
    if num_bytes != record.num_bytes:
        return f"{path.name} has {num_bytes} bytes where {MANIFEST} says {record.num_bytes}"
    if hashed and _sha256(path) != record.sha256:
        return f"{path.name} does not have the SHA-256 that {MANIFEST} says"
    return None


def _read_manifest(path: Path) -> dict[str, FileRecord] | str:
    if not path.exists():
        return f"{path.name} is missing"
    try:
        content = json.loads(path.read_bytes())
        files = {
            str(name): FileRecord(int(file["num_bytes"]), str(file["sha256"]))
            for name, file in content["files"].items()
        }
        written_in = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path.name} cannot be read as a manifest"
    if written_in != MANIFEST_FORMAT:
        return f"{path.name} is of format {written_in!r}, this version reads {MANIFEST_FORMAT}"
    paths = [name for name in files if Path(name).name != name]
    if paths:
        return f"{path.name} names {paths[0]!r}, which is not a file of its folder"
    return files


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())


def _may_be_alive(owner: str) -> bool:
    host, _, pid = owner.rpartition("-")
    # Of another machine's processes on a shared disk nothing is known, so their work stays.
    if host != _host() or not pid.isdecimal():
        return True
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
