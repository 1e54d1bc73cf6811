"""Named tensors in safetensors files: each rank writes its own shards, any number of ranks reads them back.

torch's distributed checkpoint plans who writes and who reads what; its Hugging Face reader understands the
files. Its own writer is not used: it holds a rank's whole file in memory and cannot hash what it writes.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from zephyr.atomic import FileRecord, write_file
from zephyr.models.collectives import is_distributed, rank, world_size

# The key under which the reader looks for where in its tensor each shard begins (torch 2.13).
_OFFSETS_KEY = "DCP_SHARDING_INFO"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class StoredTensor(NamedTuple):
    """A tensor as the files describe it, all shards together."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def write_tensors(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, FileRecord]:
    """The records of the files that this rank wrote; a collective call.

    Each group gets a file on each rank that has something of it to write, named
    `<group>-<rank>-of-<ranks>`. Names are unique over all groups; tensors may have any shape. DTensors are written
    shard by shard, replicated tensors once. Raises an OSError naming the file, on every rank.
    """
    group_of = {name: group for group, tensors in groups.items() for name in tensors}
    assert len(group_of) == sum(len(tensors) for tensors in groups.values()), "a name is in two groups"
    writer = _ShardWriter(folder, group_of)
    merged = {name: tensor for tensors in groups.values() for name, tensor in tensors.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
            save(merged, storage_writer=writer, no_dist=not is_distributed())
    except CheckpointException as error:
        # It wraps the failures of all ranks; the first of them is what a reader can act upon.
        first, _ = error.failures[min(error.failures)]
        raise first from error
    return writer.records


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Name to shape and dtype of every tensor in the folder's files."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    return {
        name: StoredTensor(tuple(entry.size), entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def read_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Overwrite the named tensors in place with what the folder holds; a collective call.

    Every tensor has the shape and dtype that `stored_tensors` gives for its name; the caller has compared them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
        reader = HuggingFaceStorageReader(str(folder))
        load(dict(into), storage_reader=reader, no_dist=not is_distributed())


def can_store(dtype: torch.dtype) -> bool:
    """True for the number formats that these files know."""
    return dtype in _DTYPES


class _Shard(NamedTuple):
    item: WriteItem
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


class _ShardWriter(StorageWriter):
    """A storage writer that streams a rank's shards, one tensor at a time, and hashes as it goes."""

    def __init__(self, folder: Path, group_of: Mapping[str, str]) -> None:
        self.folder = folder
        self.group_of = group_of
        self.records: dict[str, FileRecord] = {}

    def reset(self, checkpoint_id: object = None) -> None:
        """Do nothing: a writer serves one folder."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Do nothing: all ranks write alike."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """The results of writing this rank's part of the plan, a file for each group in it."""
        groups: dict[str, list[_Shard]] = {}
        for item in plan.items:
            groups.setdefault(self.group_of[item.index.fqn], []).append(_shard(item))
        results = []
        for group, shards in sorted(groups.items()):
            name = f"{group}-{rank():05d}-of-{world_size():05d}.safetensors"
            self.records[name] = write_file(self.folder / name, _safetensors(shards, planner))
            results += [WriteResult(shard.item.index, _num_bytes(shard), name) for shard in shards]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Do nothing: each file's header has all that a reader needs."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """False: never chosen by itself from a path, always by name."""
        del checkpoint_id
        return False


def _shard(item: WriteItem) -> _Shard:
    assert item.tensor_data is not None, f"{item.index.fqn} is not a tensor"
    chunk = item.tensor_data.chunk
    return _Shard(item, item.index.fqn, item.tensor_data.properties.dtype, tuple(chunk.sizes), tuple(chunk.offsets))


def _num_bytes(shard: _Shard) -> int:
    return torch.Size(shard.shape).numel() * shard.dtype.itemsize


def _safetensors(shards: list[_Shard], planner: SavePlanner) -> Iterator[bytes | memoryview]:
    """The bytes of one file: length of the header, header, tensors.

    https://huggingface.co/docs/safetensors (format)
    """
    # The widest first, so that every tensor begins at a multiple of its own width.
    shards = sorted(shards, key=lambda shard: (-shard.dtype.itemsize, shard.name))
    offsets = {shard.name: {"saved_offsets": shard.offsets} for shard in shards}
    assert len(offsets) == len(shards), "a rank has two shards of one tensor"
    header: dict[str, object] = {"__metadata__": {"format": "pt", _OFFSETS_KEY: json.dumps(offsets)}}
    begin = 0
    for shard in shards:
        end = begin + _num_bytes(shard)
        header[shard.name] = {
            "dtype": _DTYPES[shard.dtype],
            "shape": shard.shape,
            "data_offsets": (begin, end),
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for shard in shards:
        tensor = planner.resolve_data(shard.item)
        assert isinstance(tensor, Tensor)
        flat = tensor.detach().reshape(-1).cpu().contiguous()
        yield flat.view(torch.uint8).numpy().data
