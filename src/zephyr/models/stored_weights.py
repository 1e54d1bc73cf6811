"""The weights of a model where they lie in its safetensors files, to be read slice by slice and written one by one.

Ranks that share a model read and write it so, and no process ever holds the whole. Files may name and cut the weights
otherwise than the model does: transformers keeps a table of that, whose usual cases are followed here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from zephyr.models.collectives import on_every_rank, rank, world_size
from zephyr.models.loading import check_tokenizer, new_folder, refuse_existing, save_settings
from zephyr.models.model_files import read_object, shards_of
from zephyr.models.source import Source, local_file
from zephyr.models.tokenizers import Tokenizer
from zephyr.models.weight_hash import combined_hash, is_adapter, plain_name, tensor_digest

_log = logging.getLogger(__name__)
# What is read at a time. A file is closed after each part, or its pages would count as memory of the process.
PART_BYTES = 8 << 20
# How much is held until it is written to a file.
FILE_BYTES = 4 << 30


class StoredPiece(NamedTuple):
    """A stored tensor and its place in a weight. A stacked one lacks the first dimension of ``shape``, which is 1."""

    file: Path
    key: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    is_stacked: bool = False


class StoredWeights(NamedTuple):
    """The pieces of every weight, by its name in the model."""

    pieces: Mapping[str, tuple[StoredPiece, ...]]

    def read(self, name: str, into: Tensor, offsets: Sequence[int]) -> None:
        """Fill a tensor of any shape and dtype, on any device, with the part of a weight that begins at ``offsets``."""
        ends = [start + length for start, length in zip(offsets, into.shape, strict=True)]
        for piece in self.pieces[name]:
            low = [max(a, b) for a, b in zip(piece.offsets, offsets, strict=True)]
            high = [min(a + n, end) for a, n, end in zip(piece.offsets, piece.shape, ends, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                _read_piece(piece, into, offsets, low, high)


def _read_piece(piece: StoredPiece, into: Tensor, offsets: Sequence[int], low: list[int], high: list[int]) -> None:
    """Copy what lies between ``low`` and ``high`` of a weight from the piece into a part that begins at ``offsets``."""
    lengths = [b - a for a, b in zip(low, high, strict=True)]
    for start, sizes in parts(lengths, into.element_size()):
        begin = [a + s for a, s in zip(low, start, strict=True)]
        there = _slices(begin, piece.offsets, sizes)
        with safe_open(piece.file, framework="pt") as file:
            stored = file.get_slice(piece.key)[there[1:] if piece.is_stacked else there]
            into[_slices(begin, offsets, sizes)].copy_(stored.view(sizes))


def _slices(  # type: ignore[explicit-any]  # of slice itself
    begin: Sequence[int], origin: Sequence[int], sizes: Sequence[int]
) -> tuple[slice, ...]:
    return tuple(slice(b - o, b - o + n) for b, o, n in zip(begin, origin, sizes, strict=True))


def parts(shape: Sequence[int], itemsize: int) -> Iterator[tuple[list[int], list[int]]]:
    """Start and lengths of blocks that cover a tensor in the order of its memory, each of about ``PART_BYTES``."""
    if len(shape) < 2:
        yield [0] * len(shape), list(shape)
        return
    *outer, rows, width = shape
    at_once = max(1, PART_BYTES // max(1, width * itemsize))
    for place in product(*map(range, outer)):
        for row in range(0, rows, at_once):
            yield [*place, row, 0], [1] * len(outer) + [min(at_once, rows - row), width]


class EmptyModel(NamedTuple):
    """A model on the meta device, its buffers computed, and its weights; None if they are unusual."""

    model: PreTrainedModel
    weights: StoredWeights | None


def stored_weights(source: Source, model: PreTrainedModel) -> StoredWeights | None:
    """The weights of ``source`` for a model on the meta device; None, with a line in the log, if they are unusual."""
    try:
        return StoredWeights(_found(source, model))
    except _UnusualError as unusual:
        _log.warning("%s: rank 0 reads all weights and sends them to the others, for %s", source.name, unusual)
        return None


def stored_rows(source: Source, model: PreTrainedModel, name: str, rows: Sequence[int]) -> Tensor | None:
    """Rows of a weight of a model on the meta device, (len(rows), width) in float32.

    None where the files are not on this machine, or are unusual.
    """
    try:
        weights = StoredWeights(_found(replace(source, offline=True), model))
    except _UnusualError:
        return None
    found = torch.empty(len(rows), model.state_dict()[name].shape[1])
    for place, row in enumerate(rows):
        weights.read(name, found[place : place + 1], (row, 0))
    return found


def fill_buffers(model: PreTrainedModel) -> None:
    """Compute what a model on the meta device holds besides its weights, such as the frequencies of RoPE, in place."""
    for module in model.modules():
        empty = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in empty.items():
            module._buffers[name] = torch.empty_like(buffer, device="cpu")  # noqa: SLF001 - keeps what is not stored so
        if empty:
            with torch.no_grad():
                model._init_weights(module)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as transformers does when it loads


def stored_hash(weights: StoredWeights, model: nn.Module) -> str:
    """What `weights_hash` gives for the model without adapters; a collective call, each rank reads a share."""
    tensors = {plain_name(name): tensor for name, tensor in model.state_dict().items() if not is_adapter(name)}
    names = sorted(tensors)
    # A head that was drawn is in no file.
    mine = {
        name: _digest(weights, name, tensors[name]) if name in weights.pieces else tensor_digest(tensors[name])
        for name in names[rank() :: world_size()]
    }
    digests = {name: digest for part in on_every_rank(lambda: mine) for name, digest in part.items()}
    return combined_hash(tensors, digests)


def _digest(weights: StoredWeights, name: str, like: Tensor) -> str:
    digest = hashlib.sha256()
    for start, sizes in parts(like.shape, like.element_size()):
        part = torch.empty(sizes, dtype=like.dtype)
        weights.read(name, part, start)
        digest.update(part.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _UnusualError(Exception):
    """Why the weights are left to transformers."""


def _found(source: Source, model: PreTrainedModel) -> dict[str, tuple[StoredPiece, ...]]:
    """The pieces of every tensor of the model's state dict."""
    if getattr(model.config, "quantization_config", None) is not None:
        raise _UnusualError("they are quantised")
    files = _files(source)
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    state, prefix = model.state_dict(keep_vars=True), model.base_model_prefix
    by_name: dict[str, dict[str | None, list[str]]] = {}
    for key in sorted(files, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = key, None
        if name in state:
            by_name.setdefault(name, {}).setdefault(pattern, []).append(key)
        elif not _is_ignored(model, name):
            raise _UnusualError(f"{name} is not a weight of the model")
    pieces = {}
    for name, keys in by_name.items():
        converter = next((one for one in converters if keys.keys() & set(one.source_patterns)), None)
        pieces[name] = _whole(keys, files) if converter is None else _converted(keys, converter, files)
    return _with_tied(pieces, state)


def _files(source: Source) -> dict[str, Path]:
    """The file of each stored tensor, in this machine's cache if the source is a hub id."""
    index = (
        local_file(source, SAFE_WEIGHTS_INDEX_NAME)
        if (single := local_file(source, SAFE_WEIGHTS_NAME)) is None
        else None
    )
    if single is not None:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if index is None:
        raise _UnusualError("there is neither one safetensors file nor an index of several")
    fields = read_object(index)
    places = {name: local_file(source, name) for name in shards_of(fields, source.name)}
    names = cast("dict[str, dict[str, str]]", fields)["weight_map"]
    absent = [name for name, place in places.items() if place is None]
    if absent:
        raise _UnusualError(f"{absent[0]} is missing")
    return {key: place for key, name in names.items() if (place := places[name]) is not None}


def _is_ignored(model: PreTrainedModel, name: str) -> bool:
    patterns = model._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - the library's own mark
    return "rotary_emb.inv_freq" in name or any(re.search(pattern, name) for pattern in patterns)


def _whole(keys: Mapping[str | None, list[str]], files: Mapping[str, Path]) -> tuple[StoredPiece, ...]:
    """The one piece of a weight that is stored as it is."""
    key, *more = [key for column in keys.values() for key in column]
    if more:
        raise _UnusualError(f"{key} and {more[0]} are one weight")
    shape = _shape(files[key], key)
    return (StoredPiece(files[key], key, (0,) * len(shape), shape),)


def _converted(
    keys: Mapping[str | None, list[str]], converter: WeightConverter, files: Mapping[str, Path]
) -> tuple[StoredPiece, ...]:
    """The pieces of a weight into which stored tensors are stacked, such as experts, concatenated, or both."""
    columns = [keys.get(pattern, []) for pattern in converter.source_patterns]
    steps = [(type(step), step.dim) for step in converter.operations if isinstance(step, MergeModulelist | Concatenate)]
    is_stacked = steps[:1] == [(MergeModulelist, 0)]
    along = next((dim for kind, dim in steps if kind is Concatenate), None)
    expected = [(MergeModulelist, 0)] * is_stacked + [(Concatenate, along)] * (along is not None)
    alike = len({len(column) for column in columns}) == 1 and (is_stacked or len(columns[0]) == 1)
    one = len(converter.target_patterns) == 1 and (len(columns) == 1 or along is not None)
    if len(steps) < len(converter.operations) or steps != expected or not (alike and one):
        raise _UnusualError(f"{' and '.join(converter.source_patterns)} are converted in a way that is not known here")
    pieces, begin = [], 0
    for column in columns:
        for number, key in enumerate(column):
            shape = (1, *_shape(files[key], key)) if is_stacked else _shape(files[key], key)
            offsets = [number if is_stacked else 0] + [0] * (len(shape) - 1)
            if along is not None:
                offsets[along] += begin
            pieces.append(StoredPiece(files[key], key, tuple(offsets), shape, is_stacked))
        begin += 0 if along is None else shape[along]
    return tuple(pieces)


def _shape(file: Path, key: str) -> tuple[int, ...]:
    with safe_open(file, framework="pt") as opened:
        return tuple(opened.get_slice(key).get_shape())


def _with_tied(
    pieces: Mapping[str, tuple[StoredPiece, ...]], state: Mapping[str, Tensor]
) -> dict[str, tuple[StoredPiece, ...]]:
    """The pieces under all names of a weight, of which one is stored; checked to cover the weights."""
    names: dict[Tensor, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(tensor, []).append(name)
    complete: dict[str, tuple[StoredPiece, ...]] = {}
    for tensor, alike in names.items():
        stored = [name for name in alike if name in pieces]
        if len(stored) != 1:
            raise _UnusualError(f"{alike[0]} is stored {len(stored)} times")
        found = pieces[stored[0]]
        corners = [[a + n for a, n in zip(piece.offsets, piece.shape, strict=True)] for piece in found]
        num_weights = sum(math.prod(piece.shape) for piece in found)
        if tuple(map(max, *corners, corners[0])) != tuple(tensor.shape) or num_weights != tensor.numel():
            raise _UnusualError(f"{stored[0]} has another shape than in the model")
        complete |= dict.fromkeys(alike, found)
    return complete


class WeightsWriter:
    """Writes weights, given one by one, to the files of a folder as ``save_pretrained`` names, converts and cuts them.

    It holds about ``file_bytes`` at a time. ``close`` ends it.
    """

    def __init__(self, model: PreTrainedModel, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._model, self._folder, self._file_bytes = model, folder, file_bytes
        self._held: dict[str, Tensor] = {}
        self._names: list[list[str]] = []
        self._num_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a whole weight of any shape, by its name in the model."""
        for key, part in revert_weight_conversion(self._model, {name: tensor}).items():
            self._held[key] = part.contiguous()
            self._num_bytes += part.nbytes
        if sum(part.nbytes for part in self._held.values()) >= self._file_bytes:
            self._write()

    def close(self) -> None:
        """Write what is held, and the index where there are several files."""
        self._write()
        parts_of = {self._part(number): names for number, names in enumerate(self._names)}
        if len(parts_of) == 1:
            next(iter(parts_of)).rename(self._folder / SAFE_WEIGHTS_NAME)
            return
        weight_map: dict[str, str] = {}
        for number, (part, names) in enumerate(parts_of.items(), 1):
            final = SAFE_WEIGHTS_NAME.replace(".safetensors", f"-{number:05d}-of-{len(parts_of):05d}.safetensors")
            part.rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        sizes = {"total_parameters": self._model.num_parameters(), "total_size": self._num_bytes}
        index = {"metadata": sizes, "weight_map": weight_map}
        (self._folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}.safetensors"

    def _write(self) -> None:
        if self._held:
            save_file(self._held, self._part(len(self._names)), metadata={"format": "pt"})
            self._names.append(list(self._held))
            self._held.clear()


def names_to_write(model: PreTrainedModel) -> list[str] | None:
    """The names of the weights to be given to a ``WeightsWriter``, a tied weight once.

    None where several weights make up one that is stored, so that they must be converted together, and for a model
    that brings its own code, which transformers stores with it.
    """
    if type(model).__module__.startswith("transformers_modules"):
        return None
    names: dict[Tensor, list[str]] = {}
    ignored, tied = model._keys_to_ignore_on_save or (), model.all_tied_weights_keys  # noqa: SLF001 - the library's own marks
    state = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name not in ignored}
    for name, tensor in state.items():
        names.setdefault(tensor, []).append(name)
    chosen = [next((name for name in alike if name not in tied), alike[0]) for alike in names.values()]
    empty = {name: torch.empty(state[name].shape, dtype=state[name].dtype, device="meta") for name in chosen}
    together = revert_weight_conversion(model, empty)
    try:
        apart = [revert_weight_conversion(model, {name: tensor}) for name, tensor in empty.items()]
    except Exception:  # noqa: BLE001 - whatever a conversion of transformers misses
        return None
    found = {key: part.shape for some in apart for key, part in some.items()}
    return chosen if found == {key: part.shape for key, part in together.items()} else None


def write_weights(
    model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, weights: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a plain model folder, new and whole, of weights of any shape that come one by one, each with its name.

    Raises ModelError if the folder exists, ResourceError if the disk is full.
    """
    refuse_existing(folder)
    check_tokenizer(model, tokenizer, str(folder))
    with new_folder(folder) as partial:
        save_settings(model, tokenizer, partial)
        writer = WeightsWriter(model, partial)
        for name, tensor in weights:
            writer.add(name, tensor)
        writer.close()
