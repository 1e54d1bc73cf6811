"""The prompts of evaluation sets, read from files as their authors publish them.

Formats: JSON, JSONL, CSV, TSV, Parquet and plain text (one prompt a line), also as .gz, .bz2 or .zip. Whatever the
layout, a prompt is a text under one of the known field names; answers, choices and references are ignored. Special
cases: HumanEval, Winogrande, and MMLU's tables without a header.
"""

import bz2
import csv
import gzip
import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, cast

from zephyr.errors import DataError
from zephyr.records.fields import Json
from zephyr.records.reading import read_rows

READABLE = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".zip"})
PACKED = frozenset({".gz", ".bz2"})
_PARSED = READABLE - {".parquet", ".zip"}
PROMPT_FIELDS = frozenset({
    "prompt", "instruction", "question", "query", "turns", "context", "context_options", "ctx", "ctx_a", "passage",
    "sentence", "goal", "problem", "text",
})  # fmt: skip
ANSWER_FIELDS = frozenset({
    "choices", "answers", "kwargs", "output", "outputs", "completion", "reference", "references",
})  # fmt: skip

# Solutions of HumanEval that half of all programs contain. The published list has the last one with other quotation
# marks, which match nothing.
TRIVIAL_SOLUTIONS = frozenset({"return x + y", "return len(string)", "return n**2", "return ''.join(strings)"})
_HUMANEVAL_FIELDS = frozenset({"prompt", "canonical_solution", "entry_point"})
_DOCSTRING = re.compile(r"(?s)(?P<mark>\"\"\"|''')(.*?)(?P=mark)")
_CHOICE_LETTERS = frozenset("ABCD")
_CHOICE_COLUMNS = 6


class Benchmark(NamedTuple):
    """One file of an evaluation set: prompts to compare by words, and code to compare verbatim."""

    name: str
    prompts: tuple[str, ...]
    fragments: tuple[str, ...] = ()


class Benchmarks(NamedTuple):
    """The benchmarks, and the files in folders that have no prompts."""

    found: tuple[Benchmark, ...]
    without_prompts: tuple[str, ...]


def read_benchmarks(against: Sequence[str], data_dir: Path) -> Benchmarks:
    """The prompts of all files that `against` names: files, folders or globs, relative ones in `data_dir`.

    A file named by itself must have prompts; files without prompts in a folder are skipped and listed. Raises DataError
    for files that are missing, cannot be read or have no prompts.
    """
    found = []
    without = []
    data_dir = data_dir.absolute()
    for path, is_named in _files(against, data_dir):
        name = path.relative_to(data_dir).as_posix() if path.is_relative_to(data_dir) else str(path)
        benchmark = _read(path, name)
        if benchmark.prompts or benchmark.fragments:
            found.append(benchmark)
        elif is_named:
            remedy = f"prompts are read from fields of these names: {', '.join(sorted(PROMPT_FIELDS))}"
            raise DataError(name, "has no prompts of an evaluation set", remedy)
        else:
            without.append(name)
    if not found:
        raise DataError(", ".join(against), "none of these files has prompts of an evaluation set", "give other files")
    return Benchmarks(tuple(found), tuple(without))


def _files(against: Sequence[str], data_dir: Path) -> Iterator[tuple[Path, bool]]:
    """Each file once, in order, and whether it was named individually."""
    seen = set()
    for pattern in against:
        place = (data_dir / pattern).absolute()
        if place.is_file():
            files = [place]
        else:
            root = Path(place.anchor)
            inside = place.rglob("*") if place.is_dir() else root.glob(str(place.relative_to(root)))
            files = sorted(path for path in inside if path.is_file() and _is_readable(path))
        if not files:
            raise DataError(str(place), "no such evaluation set", "give a file, a folder or a glob")
        for path in files:
            if path not in seen:
                seen.add(path)
                yield path, path == place


def _is_readable(path: Path) -> bool:
    return _kind(path) in READABLE and path.stem.lower() not in {"readme", "license", "licence"}


def _kind(path: PurePath) -> str:
    """The suffix that names a file's format, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read(path: Path, name: str) -> Benchmark:
    prompts: list[str] = []
    fragments: list[str] = []
    try:
        for value in _values(path):
            fragments.extend(_fragments(value))
            prompts.extend(_prompts(value))
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, csv.Error) as error:
        raise DataError(name, f"cannot be read as an evaluation set ({error})", "fix the file") from error
    return Benchmark(name, tuple(prompts), tuple(fragments))


def _values(path: Path) -> Iterator[Json]:
    """The values in a file, row by row where it has rows."""
    kind = _kind(path)
    if kind == ".parquet":
        for row in read_rows(path):
            yield dict(row.fields)
    elif kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                # Text files beside compressed tables are explanations.
                if _kind(PurePath(member)) in _PARSED - {".txt"}:
                    yield from _parsed(archive.read(member), _kind(PurePath(member)))
    elif kind in _PARSED:
        unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix.lower(), bytes)
        yield from _parsed(unpack(path.read_bytes()), kind)
    else:
        raise ValueError(f"its name ends in '{path.suffix}', readable are {', '.join(sorted(READABLE))}")


def _parsed(content: bytes, kind: str) -> Iterator[Json]:
    text = content.decode("utf-8-sig")
    match kind:
        case ".json":
            yield cast("Json", json.loads(text))
        case ".jsonl":
            yield from (cast("Json", json.loads(line)) for line in text.split("\n") if line.strip())
        case ".txt":
            for line in text.splitlines():
                yield {"text": line}
        case _:
            yield from _table(text, "," if kind == ".csv" else "\t")


def _table(text: str, delimiter: str) -> Iterator[Json]:
    rows: Iterator[list[str]] = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = next(rows, [])
    if len(header) == _CHOICE_COLUMNS and header[-1] in _CHOICE_LETTERS:
        # MMLU: question, four choices and the right letter, without a header.
        rows = itertools.chain([header], rows)
        header = ["question", "a", "b", "c", "d", "answer"]
    for row in rows:
        fields: dict[str, Json] = {}
        fields.update(zip(header, row, strict=False))
        yield fields


def _prompts(value: Json) -> Iterator[str]:
    """The texts in prompt fields, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _prompts(item)
    elif isinstance(value, dict) and not value.keys() >= _HUMANEVAL_FIELDS:
        if value.get("role") == "user":
            yield from _texts(value.get("content"))
        for name, entry in value.items():
            if name.lower() in PROMPT_FIELDS:
                yield from _filled(entry, value)
            elif name.lower() not in ANSWER_FIELDS:
                yield from _prompts(entry)


def _texts(entry: Json) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, list):
        for item in entry:
            yield from _texts(item)
    elif isinstance(entry, dict):
        yield from _texts(entry.get("content"))


def _filled(entry: Json, row: Mapping[str, Json]) -> Iterator[str]:
    """The texts of a field; Winogrande's sentences once with each option in the gap."""
    options = [option for option in (row.get("option1"), row.get("option2")) if isinstance(option, str)]
    for text in _texts(entry):
        yield from [text.replace("_", option) for option in options] or [text]


def _fragments(value: Json) -> Iterator[str]:
    """The docstring and the solution of a HumanEval problem, but for the trivial solutions.

    huggingface/alignment-handbook, src/alignment/decontaminate.py, 12 March 2024.
    """
    if isinstance(value, dict) and value.keys() >= _HUMANEVAL_FIELDS:
        prompt, solution = str(value["prompt"]), str(value["canonical_solution"]).strip()
        quoted = _DOCSTRING.findall(prompt)
        # Of several, the last belongs to the function to be completed.
        yield from (docstring.strip() for _, docstring in quoted[-1:])
        if solution not in TRIVIAL_SOLUTIONS:
            yield solution
