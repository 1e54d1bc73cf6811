"""The files of a model from a stranger, checked before a library reads them: what they are, name and describe.

A model may come as anything: a list in place of a configuration, a pickle behind an index, a billion layers, a pipe
that never ends. Nothing here imports torch.
"""

import json
import math
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from zephyr.errors import ModelError
from zephyr.records.fields import Json, brief, printable

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
#: What is read with a configuration, and with a tokenizer. Each is one JSON object.
CONFIG_FILES = (CONFIG, "generation_config.json")
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MOST_BYTES = 1 << 26
_MOST_TOKENIZER_BYTES = 1 << 28
_MOST_HEADER_BYTES = 100_000_000  # as the library's own
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
# What a configuration may count, by its name: the libraries build or list that many of something.
_MOST = (
    (re.compile(r"(^|_)(layers?|blocks|depth)$"), 1024),
    (re.compile(r"experts?(_|$)|heads?$|head_dim$"), 1 << 16),
    (re.compile(r"vocab_size"), 1 << 26),
    (re.compile(r"(_|^)(size|dim|embd|inner|positions|embeddings|groups|rank|states?)$"), 1 << 28),
)
AGAIN = "fetch the model again, or use another one"


def check_json_files(folder: Path, names: Iterable[str]) -> None:
    """Check those files of a model folder that are there. Raises ModelError with the first that is wrong."""
    for file in (folder / name for name in names):
        if not file.exists() and not file.is_symlink():
            continue
        _check_plain(file)
        if file.name == TOKENIZER:
            # Large, and read again by its library, which tells what is no JSON.
            _check_size(file, _MOST_TOKENIZER_BYTES)
            with file.open("rb") as opened:
                if not opened.read(64).lstrip().startswith(b"{"):
                    raise ModelError(printable(str(file)), "is no JSON object", AGAIN)
            continue
        fields = read_object(file)
        if file.name == CONFIG:
            check_config(fields, printable(str(file)))


def check_weights(folder: Path) -> int:
    """How many numbers the weights of a folder hold; 0 without any of the usual names.

    Raises ModelError for an adapter beside the model, and for weights that are not plain safetensors files in it.
    """
    if (folder / CONFIG).is_file() and (folder / "adapter_config.json").is_file():
        what = "holds an adapter beside the model, which would change it unseen"
        raise ModelError(str(folder), what, "move adapter_config.json away, or merge the adapter")
    index = folder / INDEX
    names = shards_of(read_object(index), str(index)) if index.exists() or index.is_symlink() else []
    for name in (*names, *(file.name for file in folder.glob("*.safetensors"))):
        file = folder / name
        if not file.exists() and not file.is_symlink():
            raise ModelError(printable(str(file)), f"is missing, and {INDEX} names it", AGAIN)
        _check_plain(file)
    used = [SINGLE] if (folder / SINGLE).exists() else names
    return sum(num_weights(folder / name) for name in used)


def read_object(file: Path) -> dict[str, Json]:
    """The JSON object in a file. Raises ModelError for anything else, and for one that is far too large."""
    where = printable(str(file))
    try:
        _check_size(file, _MOST_BYTES)
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(where, f"is not readable JSON ({printable(str(error))[:200]})", AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(where, f"is no JSON object, got {brief(value)}", AGAIN)
    return cast("dict[str, Json]", value)


def check_config(fields: Mapping[str, Json], where: str) -> None:
    """Check that a configuration counts nothing absurd and names no files or code. Raises ModelError."""
    for name, value in _settings(fields):
        if name == "transformers_weights" and value is not None:
            raise ModelError(where, f"names its weights itself, got {brief(value)}", f"take {name} out of it")
        # Code of the hub, which a library would fetch and run.
        if name.endswith("_implementation") and isinstance(value, str) and not value.isidentifier():
            raise ModelError(where, f"names code of the hub in {name}, got {brief(value)}", f"take {name} out of it")
        most = next((most for pattern, most in _MOST if pattern.search(name)), None)
        if most is not None and isinstance(value, int | float) and not -most <= value <= most:
            raise ModelError(where, f"has {printable(name)[:80]} {brief(value)}, beyond {most:,}", AGAIN)


def _settings(fields: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """The names and values of a configuration, those of its parts among them."""
    for name, value in fields.items():
        yield name, value
        if isinstance(value, dict):
            yield from _settings(value)


def shards_of(index: Mapping[str, Json], where: str) -> list[str]:
    """The names of the files in an index of weights. Raises ModelError unless each is a plain safetensors file's."""
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(where, "has no weight_map that is an object of names", AGAIN)
    for name in weights.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            what = f"names {brief(name)}, which is no safetensors file in this folder"
            raise ModelError(where, what, "convert the model with save_pretrained on an isolated machine")
    return sorted({str(name) for name in weights.values()})


def _check_size(file: Path, most: int) -> None:
    if (size := file.stat().st_size) > most:
        raise ModelError(printable(str(file)), f"has {size:,} bytes, more than {most:,}", AGAIN)


def _check_plain(file: Path) -> None:
    """Check that a file is a regular one of its folder. Raises ModelError."""
    where = printable(str(file))
    folder = file.parent.resolve()
    # The hub's cache keeps its files as links to a folder beside the snapshots.
    allowed = (folder, folder.parent.parent / "blobs")
    target = file.resolve()
    if not any(target.is_relative_to(one) for one in allowed):
        raise ModelError(where, "is a link out of its folder", "copy the file itself there")
    if not target.exists() or not stat.S_ISREG(target.stat().st_mode):
        raise ModelError(where, "is no plain file", AGAIN)


def num_weights(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header. Raises ModelError for a file of another kind."""
    where = printable(str(file))
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = opened.read(length) if length <= _MOST_HEADER_BYTES else b""
        tensors = json.loads(header)
        shapes = [one["shape"] for name, one in tensors.items() if name != "__metadata__"]
        return sum(_product(shape) for shape in shapes)
    except (OSError, ValueError, RecursionError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ModelError(where, "is no safetensors file", AGAIN) from error


def _product(shape: Sequence[Json]) -> int:
    # A header is a stranger's text too.
    sizes = [size for size in shape if isinstance(size, int) and 0 <= size < 1 << 40]
    if len(sizes) < len(shape):
        raise ValueError(brief(shape))
    return math.prod(sizes)
