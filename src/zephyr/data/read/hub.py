"""Rows of data sets on the Hugging Face hub, downloaded or streamed; the only module that imports the datasets library.

Streamed rows come over the network as they are read, and no file of the data set is kept. They are the same rows in the
same order as those of a download.
"""

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, cast

from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSource
from zephyr.records.fields import Json, Row, brief
from zephyr.records.tables import without_absent_keys

_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_COMMIT = re.compile(r"@([0-9a-f]{40})/")
_WHOLE_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Info(Protocol):
    download_checksums: Mapping[str, object] | None


class _Table(Protocol):
    info: _Info

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Json]]: ...

    def select(self, indices: Iterable[int]) -> "_Table": ...


class _Datasets(Protocol):
    def load_dataset(
        self, path: str, name: str | None, *, split: str, revision: str | None, streaming: bool
    ) -> _Table: ...


class _Hub(Protocol):
    def dataset_info(self, repo_id: str, *, revision: str | None) -> "_HubInfo": ...


class _HubInfo(Protocol):
    sha: str | None


class _Errors(Protocol):
    DatasetsError: type[Exception]


class HubRows:
    """The rows of one split, memory-mapped from the library's cache, or streamed: then their number is not known."""

    def __init__(self, table: _Table, name: str, commit: str) -> None:
        self._table = table
        self._name = name
        self.commit = commit

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Row]:
        """The rows in their order. Raises DataError where the network ends them."""
        number = 0
        try:
            for number, fields in enumerate(self._table, 1):
                yield Row(f"{self._name} row {number}", without_absent_keys(fields))
        except OSError as error:
            what = f"cannot be read after row {number:,} ({brief(f'{type(error).__name__}: {error}')})"
            raise DataError(self._name, what, "check the network and run again, or leave streaming out") from error


def is_hub_id(path: str) -> bool:
    """Whether a path has the form owner/name."""
    return _HUB_ID.fullmatch(path) is not None


def open_hub(source: DataSource, split: str, *, offline: bool) -> HubRows:
    """The rows of a split of a data set on the hub: downloaded once, or streamed; offline, from the library's cache.

    Raises DataError if they cannot be loaded.
    """
    path = source.path
    if offline and source.streaming:
        raise DataError(path, "is streamed, which needs the network", "leave streaming out, or run without offline")
    try:
        if offline:
            _stay_offline()
        datasets = cast("_Datasets", importlib.import_module("datasets"))
        errors = cast("_Errors", importlib.import_module("datasets.exceptions"))
    except ImportError as error:
        remedy = "pip install 'zephyr-align[hub]', or give a local file or folder"
        raise DataError(path, "is not a local file, and reading the hub needs the package datasets", remedy) from error
    try:
        table = datasets.load_dataset(
            path, source.config, split=split, revision=source.revision, streaming=source.streaming
        )
        commit = _streamed_commit(path, source.revision) if source.streaming else _commit(table, source.revision)
    except (OSError, ValueError, RuntimeError, errors.DatasetsError) as error:
        # The library's errors for a missing name, split or configuration, no network, no access, and for data
        # sets that would run code.
        said = brief(f"{type(error).__name__}: {error}")
        if offline:
            remedy = "run once without offline, or give a local file or folder"
            raise DataError(path, f"is neither a local file nor in the hub's cache ({said})", remedy) from error
        remedy = "check the name, split, config and revision; log in if it is gated; or give a local file"
        raise DataError(path, f"cannot be loaded from the hub ({said})", remedy) from error
    return HubRows(table, f"{path}:{split}", commit)


def _streamed_commit(path: str, revision: str | None) -> str:
    """The commit of a data set of which nothing is downloaded."""
    if revision is not None and _WHOLE_COMMIT.fullmatch(revision):
        return revision
    hub = cast("_Hub", importlib.import_module("huggingface_hub"))
    return str(hub.dataset_info(path, revision=revision).sha)


def _commit(table: _Table, revision: str | None) -> str:
    """The commit of the rows; the table's fingerprint if the library does not give the commit."""
    if revision is not None and _WHOLE_COMMIT.fullmatch(revision):
        return revision
    for address in table.info.download_checksums or ():
        found = _COMMIT.search(address)
        if found:
            return found[1]
    return str(getattr(table, "_fingerprint", ""))


def _stay_offline() -> None:
    """Make the hub's libraries, which read their environment once, use only their caches from now on."""
    constants = importlib.import_module("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
