"""What of a run, a model or a file of rows is published: which files, under which names, and nothing private in them.

Only files that belong to a model, a data set or a report are taken, all others are listed as left out. What is text is
read for keys and for paths of a machine; rows become Parquet.
"""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from huggingface_hub import DatasetCardData

from zephyr.deliver.private_lines import own_folders, path_in, refuse_private_lines
from zephyr.deliver.rendering import render_markdown
from zephyr.deliver.run_facts import counts_of, makers_of
from zephyr.errors import DataError, ModelError, Problems
from zephyr.recipe.stage_sections import DELIVER, FEEDBACK, SYNTH
from zephyr.records.fields import Json, brief
from zephyr.records.reading import read_rows
from zephyr.runs.layout import ADAPTER, CARD, LOCK_FILE, MODEL, REPORT, STAGE_FILE, SUMMARY
from zephyr.runs.reader import RunRecord, at, read_record, read_run

# The rows of a stage that are worth publishing; ledgers and calls never are.
ROW_FILES = ("dialogues.jsonl", "texts.jsonl", "prompts.jsonl", "ratings.jsonl", "pairs.jsonl")
_MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".gguf"}
_NAMED_FILES = {CARD, "LICENSE", "LICENSE.txt", "NOTICE", "merges.txt", "vocab.txt", REPORT}
_WEIGHTS, _ADAPTER_SETTINGS = "model.safetensors.index.json", "adapter_config.json"
_TEXT = {".json", ".jinja", ".md", ".txt", ".html", ".jsonl", ".csv", ".sqlite", ""}
_PATH_KEYS = ("_name_or_path", "name_or_path")
_BASE_KEY = "base_model_name_or_path"
_BATCH_ROWS = 10_000
_SHOWN = 5


@dataclass(frozen=True)
class Upload:
    """A file for a repository: its name there, and the file here or, where it was rewritten, its bytes."""

    name: str
    content: Path | bytes

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass
class RepoFiles:
    """The files for one repository, and lines on what is left out or was rewritten."""

    kind: str  # model or dataset
    uploads: list[Upload] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replaces: str | None = None  # files of the repository of which those that are not among these are removed

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(one.num_bytes for one in self.uploads)


def files_of(path: Path, work: Path, *, base: str | None = None, exclude: Sequence[str] = ()) -> RepoFiles:
    """What is published of a run, a model, an adapter, a stage with rows, or a file of rows.

    `work`: a folder for files that are made for it; `base`: the hub id of an adapter's base model; `exclude`: names of
    files that are left out. Raises DataError or ModelError for what is none of these, for what is not finished, and for
    a file with a key or a path of this machine.
    """
    if ".partial" in path.name:
        raise DataError(str(path), "is not finished", "run its recipe to the end")
    if path.is_file():
        found = _rows_of([path], path.stem, work)
    elif not path.is_dir():
        raise DataError(str(path), "there is no such folder", "name a run, a model folder or a file of rows")
    elif (path / LOCK_FILE).is_file() or (path / SUMMARY).is_file():
        found = _run_files(_one_run(path), base)
    elif (path / MODEL).is_dir() and (path / STAGE_FILE).is_file():
        found = _model_files(path / MODEL, "", base)
    elif any((path / name).is_file() for name in ROW_FILES):
        found = _rows_of([path / name for name in ROW_FILES if (path / name).is_file()], path.name, work)
    else:
        found = _model_files(path, "", base)
    found.notes += [f"left out: {one.name} (--exclude)" for one in found.uploads if one.name in exclude]
    found.uploads = [one for one in found.uploads if one.name not in exclude]
    if not found.uploads:
        raise DataError(str(path), "has no files to publish", "name a run, a model folder or a file of rows")
    refuse_private(found)
    return found


def data_of(run_folder: Path, work: Path) -> RepoFiles:
    """The rows of a run's synth and feedback stages as a data set. Raises DataError where it has none."""
    run = _one_run(run_folder)
    folders = [run.stages[name].folder for name in (SYNTH, FEEDBACK) if name in run.stages]
    files = [folder / name for folder in folders for name in ROW_FILES if (folder / name).is_file()]
    if not files:
        raise DataError(str(run_folder), "made no rows", "leave out the repository for data")
    found = _rows_of(files, run.name, work, run)
    refuse_private(found)
    return found


def _one_run(folder: Path) -> RunRecord:
    """The run in a folder; of on-policy rounds that with the best model. Raises DataError for an unfinished one."""
    if not (folder / LOCK_FILE).is_file():
        best = at(read_record(folder / SUMMARY), "best")
        if not isinstance(best, str):
            raise DataError(
                str(folder), f"has no {LOCK_FILE}", "name the folder of a run: output_dir/name of its recipe"
            )
        folder /= best
    run = read_run(folder)
    lock = read_record(folder / LOCK_FILE)
    stages = at(lock, "stages")
    missing = [name for name in (stages if isinstance(stages, dict) else ()) if name not in run.stages]
    if missing:
        remedy = "run its recipe to the end, or push it to be continued elsewhere: --resumable"
        raise DataError(str(folder), f"stage {missing[0]} is not finished", remedy)
    return run


def _run_files(run: RunRecord, base: str | None) -> RepoFiles:
    """The last model of a run at the top, its adapter in a folder, the report, and the lock file."""
    if run.trained is None or run.model_folder is None:
        raise DataError(str(run.folder), "has made no model", "name the folder of its rows instead")
    found = _model_files(run.model_folder, "", None)
    adapter = run.trained.folder / ADAPTER
    if adapter.is_dir():
        try:
            lora = _model_files(adapter, f"{ADAPTER}/", base)
        except ModelError as error:
            found.notes.append(f"left out: {ADAPTER}/ ({error.what})")
        else:
            found.uploads += lora.uploads
            found.notes += lora.notes
    report = run.stages[DELIVER].folder / REPORT if DELIVER in run.stages else run.folder / REPORT
    if report.is_file():
        found.uploads.append(Upload(REPORT, report))
    lock = (run.folder / LOCK_FILE).read_text(encoding="utf-8")
    if path_in(lock, own_folders()) is not None:
        found.notes.append(f"left out: {LOCK_FILE} (its recipe has paths of this machine)")
    else:
        found.uploads.append(Upload(LOCK_FILE, run.folder / LOCK_FILE))
    return found


def _model_files(folder: Path, prefix: str, base: str | None) -> RepoFiles:
    """The files of a model or an adapter. Raises ModelError for one that is not whole."""
    names = {path.name for path in folder.iterdir()}
    is_adapter = _ADAPTER_SETTINGS in names
    if not is_adapter and "config.json" not in names and not any(name.endswith(".gguf") for name in names):
        what = "is no run, model, adapter or folder of rows"
        raise ModelError(str(folder), what, "name output_dir/name of a recipe, or a folder with a config.json")
    _check_whole(folder, names)
    found = RepoFiles("model")
    for path in sorted(folder.iterdir()):
        is_ours = path.suffix in _MODEL_FILES or path.name in _NAMED_FILES or path.name.startswith("Modelfile")
        if path.name.startswith(".") or not path.is_file() or not is_ours:
            if not path.name.startswith("."):
                found.notes.append(f"left out: {prefix}{path.name} (no file of a model)")
            continue
        found.uploads.append(_rewritten(Upload(prefix + path.name, path), base, found.notes))
    if CARD not in names:
        found.notes.append(f"{prefix or 'the repository'} has no {CARD}: write one with zephyr card")
    elif is_adapter and base is not None:
        found.uploads = [_card_with_base(one, base) if one.name == prefix + CARD else one for one in found.uploads]
    return found


def _check_whole(folder: Path, names: set[str]) -> None:
    """Raise ModelError for a folder that a writer has not finished."""
    partial = next((name for name in sorted(names) if ".partial" in name), None)
    if partial is not None:
        raise ModelError(str(folder), f"is not finished: it has {partial}", "run its recipe to the end")
    shards: set[str] = set()
    if _WEIGHTS in names:
        index = at(read_record(folder / _WEIGHTS), "weight_map")
        shards = set(map(str, index.values())) if isinstance(index, dict) else set()
    missing = sorted(shards - names)
    if missing:
        raise ModelError(str(folder), f"has no {missing[0]}, which its index names", "save the model again")
    if not any(name.endswith((".safetensors", ".gguf")) for name in names):
        raise ModelError(str(folder), "has no weights in safetensors or GGUF", "save the model again")


def _rewritten(upload: Upload, base: str | None, notes: list[str]) -> Upload:
    """The file, without the path of a model's folder where its settings hold one; an adapter's base by its hub id."""
    if not upload.name.endswith("config.json") or not isinstance(upload.content, Path):
        return upload
    settings = read_record(upload.content)
    if not isinstance(settings, dict):
        return upload
    changed: dict[str, Json] = {key: value for key, value in settings.items() if not _is_path_key(key, value)}
    if _BASE_KEY in settings:
        if base is not None:
            changed[_BASE_KEY] = base
        elif _is_local(settings[_BASE_KEY]):
            what = f"its base model is a folder of this machine, {brief(settings[_BASE_KEY])}"
            raise ModelError(str(upload.content), what, "push that model first and name it: --base OWNER/NAME")
    if changed == settings:
        return upload
    notes.append(f"rewritten: {upload.name}, without paths of this machine")
    return Upload(upload.name, (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode())


def _is_path_key(key: str, value: Json) -> bool:
    return key in _PATH_KEYS and _is_local(value)


def _is_local(value: Json) -> bool:
    """Whether the name of a model is a folder, not a hub id."""
    text = value if isinstance(value, str) else ""
    return bool(text) and (
        text.startswith(("/", ".", "~")) or text.count("/") > 1 or "\\" in text or Path(text).is_dir()
    )


def _card_with_base(card: Upload, base: str) -> Upload:
    """An adapter's card that names this base model in its front matter."""
    text = card.content.read_text(encoding="utf-8") if isinstance(card.content, Path) else card.content.decode()
    changed, count = re.subn(r"(?m)^base_model: .*$", f"base_model: {base}", text, count=1)
    if not count and text.startswith("---\n"):
        changed = text.replace("---\n", f"---\nbase_model: {base}\n", 1)
    return Upload(card.name, changed.encode())


# ---- nothing private ----


def refuse_private(files: RepoFiles) -> None:
    """Raise one DataError that lists the lines with a key or a path of a machine."""
    problems = Problems()
    for one in files.uploads:
        if Path(one.name).suffix not in _TEXT:
            continue
        lines = one.content.decode("utf-8", "replace").splitlines() if isinstance(one.content, bytes) else None
        with problems.noted():
            refuse_private_lines(one.name, _lines(one.content) if lines is None else iter(lines))
    problems.raise_any()


def _lines(path: Path | bytes) -> Iterator[str]:
    assert isinstance(path, Path)
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


# ---- rows ----


class _Schema(Protocol):
    names: list[str]


class _Table(Protocol):
    schema: _Schema


class _TableOf(Protocol):
    def from_pylist(self, rows: list[dict[str, Json]], schema: _Schema | None = None) -> _Table: ...


class _Arrow(Protocol):
    Table: _TableOf
    ArrowInvalid: type[Exception]
    ArrowTypeError: type[Exception]
    ArrowNotImplementedError: type[Exception]

    def unify_schemas(self, schemas: list[_Schema], *, promote_options: str) -> _Schema: ...


class _Writer(Protocol):
    def write_table(self, table: _Table) -> None: ...

    def close(self) -> None: ...


class _ParquetModule(Protocol):
    def ParquetWriter(self, where: str, schema: _Schema) -> _Writer: ...  # noqa: N802 - the library's name


def _rows_of(files: Sequence[Path], title: str, work: Path, run: RunRecord | None = None) -> RepoFiles:
    """Files of rows as Parquet with a card; a file whose types Parquet cannot hold as it is. Raises DataError."""
    found, configs = RepoFiles("dataset"), list[dict[str, str]]()
    told: list[list[str]] = []
    for path in files:
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")):
            raise DataError(str(path), "is no file of rows", "name a JSONL, JSON, CSV or Parquet file, or a folder")
        refuse_private_lines(path.name, _lines(path) if path.suffix == ".jsonl" else iter(()))
        name = path.name.partition(".")[0]
        target = work / f"{name}.parquet"
        count = _write_parquet(path, target)
        if count is None:
            found.notes.append(f"{path.name} stays JSON: the types of a column differ between its rows")
            target, count = path, sum(1 for _ in read_rows(path))
        uploaded = f"{name}/train-00000-of-00001{target.suffix}"
        found.uploads.append(Upload(uploaded, target))
        configs.append({"config_name": name, "data_files": uploaded})
        told.append([name, f"{count:,}", uploaded])
    made = run is not None
    card = render_markdown(
        "data_card.md.j2",
        {
            "front_matter": DatasetCardData(
                configs=configs, tags=["zephyr", "synthetic"] if made else ["zephyr"], pretty_name=title
            ).to_yaml(),
            "title": title,
            "files": told,
            "makers": makers_of(run) if run is not None else {},
            "counts": [one for one in counts_of(run) if one.stage in (SYNTH, FEEDBACK)] if run is not None else [],
            "version": str(at(dict(run.packages), "zephyr") or "") if run is not None else "",
        },
    )
    found.uploads.insert(0, Upload(CARD, card.encode()))
    return found


def _write_parquet(path: Path, target: Path) -> int | None:
    """The number of rows written; None where no schema holds them all. Raises DataError without pyarrow."""
    try:
        arrow = cast("_Arrow", importlib.import_module("pyarrow"))
        parquet = cast("_ParquetModule", importlib.import_module("pyarrow.parquet"))
    except ImportError as error:
        remedy = "pip install 'zephyr-align[hub]'"
        raise DataError(str(path), "Parquet needs the package pyarrow, which is not installed", remedy) from error
    faults = (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError)
    try:
        schemas = [arrow.Table.from_pylist(batch).schema for batch in _batches(path)]
        schema = arrow.unify_schemas(schemas, promote_options="permissive")
        writer = parquet.ParquetWriter(str(target), schema)
        count = 0
        try:
            for batch in _batches(path):
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
                count += len(batch)
        finally:
            writer.close()
    except faults:
        target.unlink(missing_ok=True)
        return None
    return count


def _batches(path: Path) -> Iterator[list[dict[str, Json]]]:
    batch: list[dict[str, Json]] = []
    for row in read_rows(path):
        batch.append({name: _filled(value) for name, value in row.fields.items()})
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _filled(value: Json) -> Json:
    """The value with null for mappings without keys, which Parquet does not know."""
    if isinstance(value, dict):
        return {name: _filled(one) for name, one in value.items()} or None
    return [_filled(one) for one in value] if isinstance(value, list) else value
