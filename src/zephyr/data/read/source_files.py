"""The files of a source: a file, those that a glob matches, or those of its split and configuration in a folder.

A folder is read as data sets are laid out on the hub: files named after their split (`train.jsonl`,
`test_sft-00000-of-00001.parquet`), in the folder, in its subfolder `data`, in a subfolder per configuration, or in one
per split. A split that no file is named after is refused, so that test rows are never read by accident.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.data.read.hub import is_hub_id
from zephyr.data.read.selection import parse_split
from zephyr.errors import DataError, did_you_mean
from zephyr.recipe.data_section import DataSource, is_held_out
from zephyr.records.fields import listed, printable
from zephyr.records.reading import READERS, data_files, is_data_file, is_glob, nearest_entry

# The split of every row, in the words of the datasets library.
EVERY_SPLIT = "all"
_TRAIN = "train"
# As in train-00000-of-00004-a1b2c3d4e5f60718.parquet and train-0.jsonl.
_SHARD = re.compile(r"[-_.]\d+(?:[-_]of[-_]\d+)?(?:-[0-9a-f]{16})?$")
_SPLIT_FOLDER = re.compile(r"(?:train|test|validation|valid|val|dev|eval)(?![a-z])")
_NAMES_TRAINING = re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])")


def name_of(source: DataSource) -> str:
    """A source in messages: its path, and its split where that is not the usual one."""
    return printable(source.path if source.split == _TRAIN else f"{source.path} ({source.split})")


class SplitFile(NamedTuple):
    """A file and the split that its name, or that of its subfolder, says it is."""

    split: str
    path: Path

    def is_named(self, split: str) -> bool:
        """Whether the file is of this split; of `test-extra.jsonl` both `test-extra` and `test` are names."""
        return split in (self.split, *(self.split.split(mark)[0] for mark in "-."))


def locate(source: DataSource, data_dir: Path) -> list[Path] | None:
    """The files of a source, in their order; None if it is on the hub. Raises DataError if there is none."""
    path = data_dir / Path(source.path).expanduser()
    split = parse_split(source.split, printable(source.path)).name
    if path.is_dir():
        return _of_split(_folder_files(path, source.config), split, path)
    if path.exists():
        return _whole_file(path, split, source.split)
    if is_glob(path):
        files = data_files(path)
        return files if split == _TRAIN else _of_split([_named(file) for file in files], split, path)
    is_folder_here = any((data_dir / part).exists() for part in Path(source.path).parts[:1])
    if is_hub_id(source.path) and not is_folder_here and not source.path.lower().endswith((*READERS, ".gz")):
        return None
    missing = path.absolute()
    raise DataError(
        printable(str(missing)), "no such file or folder", f"check path and data_dir{nearest_entry(missing)}"
    )


def _whole_file(path: Path, split: str, written: str) -> list[Path]:
    """The file itself, which is one split; `written` is the split with its slice."""
    if split in (_TRAIN, EVERY_SPLIT) or _named(path).is_named(split):
        return [path]
    remedy = f"write split: {_TRAIN}{written.removeprefix(split)}, or give the file of split '{split}'"
    raise DataError(printable(path.name), f"is a single file, which has no split '{split}'", remedy)


def _of_split(files: Sequence[SplitFile], split: str, path: Path) -> list[Path]:
    """The files named after the split; all are `train` if no name speaks of a split. Raises DataError for none."""
    if split == EVERY_SPLIT:
        return [file.path for file in files]
    found = [file.path for file in files if file.is_named(split)]
    if found:
        return found
    names = sorted({file.split for file in files})
    trained_on = [name for name in names if _NAMES_TRAINING.search(name.lower())]
    if split == _TRAIN and not any(map(is_held_out, names)) and len(trained_on) < 2:
        return [file.path for file in files]
    choices = trained_on if split == _TRAIN and trained_on else names
    remedy = f"write split: {' or split: '.join(map(printable, choices[:4]))}; split: {EVERY_SPLIT} reads every file"
    raise DataError(
        printable(str(path)), f"no file is named after the split '{split}', there are {listed(names)}", remedy
    )


def _folder_files(folder: Path, config: str | None) -> list[SplitFile]:
    """The data files of a folder with their splits. Raises DataError if there is none."""
    places = [place for place in (folder, folder / "data") if place.is_dir()]
    chosen = [place / config for place in places if config is not None and (place / config).is_dir()]
    found = next(filter(None, map(_files_inside, [*chosen, *places])), [])
    if found:
        return found
    configs = [entry.name for place in places for entry in sorted(place.iterdir()) if _has_data(entry)]
    if not configs:
        data_files(folder)  # which says what is there instead
    what = "has data files in subfolders only" if config is None else f"has no subfolder '{config}' with data files"
    hint = "" if config is None else did_you_mean(config, configs)
    raise DataError(printable(str(folder)), f"{what}, there are {listed(configs)}{hint}", "name one of them as config")


def _files_inside(folder: Path) -> list[SplitFile]:
    """The data files in the folder, or else those in subfolders that are named after splits."""
    entries = sorted(folder.iterdir())
    splits = [entry for entry in entries if _SPLIT_FOLDER.match(entry.name.lower()) and _has_data(entry)]
    files = [_named(entry) for entry in entries if is_data_file(entry)]
    return files or [SplitFile(entry.name, file) for entry in splits for file in data_files(entry)]


def _has_data(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith((".", "_")) and any(map(is_data_file, folder.iterdir()))


def _named(file: Path) -> SplitFile:
    """The file under the name of its split: `train_sft` of train_sft-00000-of-00003.parquet."""
    stem = Path(file.name.removesuffix(".gz")).stem
    return SplitFile(_SHARD.sub("", stem) or stem, file)
