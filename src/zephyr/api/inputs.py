"""Models and rows that a caller holds in memory, written where a recipe can name them.

The names of what is written are hashes of its content: the same call finds its finished work again.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from zephyr.atomic import write_file
from zephyr.errors import DataError, ModelError
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.section import Plain
from zephyr.records.fields import printable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OUTPUT_DIR = "runs"
INPUTS = "inputs"
_HASH_LENGTH = 12


class HasModel(Protocol):
    """A result with the folder of a trained model."""

    @property
    def model_folder(self) -> Path: ...


class HasFile(Protocol):
    """A result with a file of rows."""

    @property
    def file(self) -> Path: ...


ModelLike: TypeAlias = "str | os.PathLike[str] | PreTrainedModel | PeftModel | HasModel"
RowsLike: TypeAlias = "str | os.PathLike[str] | DataSource | Iterable[Mapping[str, object]] | HasFile"


def model_name(model: ModelLike, tokenizer: "PreTrainedTokenizerBase | None", folder: Path) -> str:
    """The hub id or folder of a model; one in memory is written below `folder`, with adapters merged into a copy.

    `tokenizer`: of a model in memory; None: the one of the hub id or folder that it was loaded from. Raises ModelError.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    trained = getattr(model, "model_folder", None)
    if isinstance(trained, Path):
        return str(trained)
    if not hasattr(model, "named_parameters"):
        what = f"is no model, got {type(model).__name__}"
        raise ModelError("model", what, "give a hub id, a folder, a transformers or peft model, or a result")
    from zephyr.models.in_memory import write_in_memory

    return str(write_in_memory(model, tokenizer, folder / INPUTS))  # type: ignore[arg-type]


def sources_of(rows: RowsLike, folder: Path) -> list[Plain]:
    """The rows as sources of a recipe; those in memory are written below `folder`. Raises DataError."""
    if isinstance(rows, DataSource):
        return [rows.model_dump(mode="json", exclude_unset=True)]
    if isinstance(rows, str | os.PathLike):
        return [{"path": os.fspath(rows)}]
    made = getattr(rows, "file", None)
    if isinstance(made, Path):
        return [{"path": str(made.resolve())}]
    if isinstance(rows, Mapping):
        splits = ", ".join(map(repr, rows))
        raise DataError("dataset", f"is a dictionary of {splits}", "give one of its splits, such as dataset['train']")
    if not isinstance(rows, Iterable):
        what = f"holds no rows, got {type(rows).__name__}"
        raise DataError("dataset", what, "give a path, a hub id, a datasets.Dataset or a list of dictionaries")
    return [{"path": str(_written(rows, folder / INPUTS).resolve())}]


def _written(rows: Iterable[Mapping[str, object]], folder: Path) -> Path:
    """The file of the rows, named after their content."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".rows-{os.getpid()}.partial"
    partial.unlink(missing_ok=True)
    try:
        path = folder / f"rows-{write_file(partial, _lines(rows)).sha256[:_HASH_LENGTH]}.jsonl"
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _lines(rows: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            what = f"row {number} is no dictionary, got {type(row).__name__} {printable(repr(row))[:40]}"
            raise DataError("dataset", what, "give rows as dictionaries; of a pandas frame: frame.to_dict('records')")
        try:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError, UnicodeEncodeError) as error:
            name = next((name for name, value in row.items() if not _is_json(value)), "")
            what = f"row {number}, column {printable(name)}: cannot be written as JSON ({error})"
            raise DataError("dataset", what, "give text, numbers, lists and dictionaries") from error
        yield line


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, UnicodeEncodeError):
        return False
    return True
