"""AlpacaEval's files: instructions with outputs, and published annotations with the win rates they come to.

A preference is 1 if the first output (the baseline's) is better, 2 if the second (the model's) is, 1.5 for a tie, which
older files write as 0; weighted judges give numbers between. Anything that is null is a judgment that failed.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from zephyr.errors import DataError, did_you_mean
from zephyr.records.fields import SHOWN_FAULTS, Json, Row, brief
from zephyr.records.reading import read_rows
from zephyr.records.thinking import Spoken, split_thinking

Version = Literal["1", "2"]
# The file of the baseline's answers, which hold the instructions too, as AlpacaEval distributes them.
BASELINES: Mapping[Version, str] = {"1": "text_davinci_003_outputs.json", "2": "gpt4_1106_preview_outputs.json"}
_SOURCE = "the data set tatsu-lab/alpaca_eval on the hub"
_TIE = 1.5


class Instruction(NamedTuple):
    """One instruction with the baseline's answer; `subset` is the collection that it comes from."""

    text: str
    baseline: str
    subset: str


class Annotation(NamedTuple):
    """One judged instruction; `preference` from 1 to 2, None if there is none. Lengths are in characters."""

    instruction: str
    preference: float | None
    reference_length: int | None = None
    model_length: int | None = None


class WinRate(NamedTuple):
    """In percent, over `n` judged instructions; `missing` counts those of the same set without a judgment."""

    model: str
    annotator: str
    win_rate: float | None
    standard_error: float | None
    n: int
    missing: int
    wins: int
    losses: int
    ties: int
    discrete_win_rate: float | None


Judged = Mapping[tuple[str, str], Sequence[Annotation]]  # by model and annotator


def read_instructions(path: Path) -> list[Instruction]:
    """The instructions in a file of a baseline's outputs. Raises DataError."""
    found = []
    for row in read_rows(path):
        text, output, subset = (row.fields.get(name) for name in ("instruction", "output", "dataset"))
        if not isinstance(text, str) or not isinstance(output, str):
            raise DataError(row.name, "has no instruction or output", f"use a file of {_SOURCE}")
        found.append(Instruction(text, output, subset if isinstance(subset, str) else ""))
    if len({one.text for one in found}) < len(found):
        raise DataError(path.name, "has an instruction twice", "name a file with one output for every instruction")
    return found


def find_baseline(folder: Path, version: Version) -> Path:
    """The file of that version's baseline, in a folder or its subfolder `alpaca_eval`. Raises DataError if missing."""
    name = BASELINES[version]
    for place in (folder, folder / "alpaca_eval"):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(str(folder), f"there is no {name} of AlpacaEval", f"get it from {_SOURCE}, name it by --data")


def read_outputs(path: Path) -> dict[str, Spoken | None]:
    """A model's outputs by instruction, their thinking apart, from a file in AlpacaEval's form; None for a null.

    Raises DataError for a row without an instruction or an output, and for an instruction that comes twice.
    """
    found: dict[str, Spoken | None] = {}
    for row in read_rows(path):
        text, output = row.fields.get("instruction"), row.fields.get("output")
        if not isinstance(text, str) or not isinstance(output, str | None) or "output" not in row.fields:
            what = f"has no instruction with an output, got {brief(dict(row.fields))}"
            raise DataError(row.name, what, 'each row of answers is {"instruction": "...", "output": "..."}')
        if text in found:
            what = f"has an instruction that comes twice, {brief(text)}"
            raise DataError(row.name, what, "leave one output for every instruction")
        found[text] = None if output is None else split_thinking(output)
    return found


def read_annotations(path: Path) -> Judged:
    """The annotations of a file, by model and annotator. Raises DataError for unusable or repeated rows."""
    found: dict[tuple[str, str], dict[str, Annotation]] = {}
    references: dict[tuple[str, str], str] = {}
    faults: list[str] = []
    num_faults = 0
    for row in read_rows(path):
        read = _annotation(row)
        if isinstance(read, tuple):
            key, annotation = read
            of_model = found.setdefault(key, {})
            against = str(row.fields.get("generator_1") or "")
            if references.setdefault(key, against) != against:
                what = f"{row.name} judges {key[0]} against {against or 'nobody'}, and rows before it against "
                raise DataError(path.name, f"{what}{references[key] or 'nobody'}", "leave one reference in the file")
            if annotation.instruction not in of_model:
                of_model[annotation.instruction] = annotation
                continue
            read = f"{row.name} has an instruction that {key[0]} was judged on before"
        num_faults += 1
        faults += [read] if len(faults) < SHOWN_FAULTS else []
    if num_faults:
        remedy = "each row needs instruction, generator_2 and a preference from 1 to 2 (0 is a tie, null is missing)"
        raise DataError(path.name, f"{num_faults} rows are unusable: {'; '.join(faults)}", remedy)
    if not found:
        raise DataError(path.name, "holds no annotations", "name a file of AlpacaEval annotations")
    return {key: tuple(of_model.values()) for key, of_model in found.items()}


def choose_annotations(judged: Judged, *, model: str | None, annotator: str | None) -> Judged:
    """The annotations of one model, one annotator, or both. Raises DataError if there are none."""
    for name, wanted, place in (("--model", model, 0), ("--annotator", annotator, 1)):
        known = {key[place] for key in judged}
        if wanted is not None and wanted not in known:
            raise DataError(name, f"has no annotations, got '{wanted}'", _known(wanted, known))
    picked = {key: rows for key, rows in judged.items() if model in (None, key[0]) and annotator in (None, key[1])}
    if not picked:
        annotators = sorted(key[1] for key in judged if key[0] == model)
        raise DataError("--annotator", f"did not judge {model}, got '{annotator}'", f"name {' or '.join(annotators)}")
    return picked


def win_rates(judged: Judged, *, of: Judged | None = None) -> list[WinRate]:
    """The win rates of `of` (default: all), by name.

    The set that a model's missing judgments are counted in is every instruction that its annotator has in `judged`.
    """
    instructions: dict[str, set[str]] = {}
    for (_, annotator), rows in judged.items():
        instructions.setdefault(annotator, set()).update(row.instruction for row in rows)
    wanted = judged if of is None else of
    return [_win_rate(*key, rows, len(instructions[key[1]])) for key, rows in sorted(wanted.items())]


def _win_rate(model: str, annotator: str, rows: Sequence[Annotation], num_judged: int) -> WinRate:
    preferences = [row.preference for row in rows if row.preference is not None]
    n = len(preferences)
    mean, error = mean_and_error([100 * (preference - 1) for preference in preferences])
    wins, losses = sum(p > _TIE for p in preferences), sum(p < _TIE for p in preferences)
    ties = n - wins - losses
    discrete = 100 * (wins + ties / 2) / n if n else None
    return WinRate(model, annotator, mean, error, n, num_judged - n, wins, losses, ties, discrete)


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and its standard error (sample deviation over the root of n); None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _annotation(row: Row) -> tuple[tuple[str, str], Annotation] | str:
    fields = row.fields
    instruction, annotator = fields.get("instruction"), fields.get("annotator_config") or fields.get("annotator") or ""
    model = fields.get("model") or fields.get("generator_2")
    if not isinstance(instruction, str) or not isinstance(model, str) or not isinstance(annotator, str):
        return f"{row.name} names no instruction, model or annotator"
    preference = _preference(fields.get("preference", ""))
    if isinstance(preference, str):
        return f"{row.name} has {preference} where a preference is due"
    lengths = (_length(fields.get("output_1")), _length(fields.get("output_2")))
    return (model, annotator), Annotation(instruction, preference, *lengths)


def _preference(value: Json) -> float | str | None:
    """The preference, None if it is missing, or what stands in its place."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        return brief(value)
    return _TIE if value == 0 else float(value)


def _length(output: Json) -> int | None:
    return len(output) if isinstance(output, str) else None


def _known(wanted: str, known: set[str]) -> str:
    return did_you_mean(wanted, known).removeprefix("; ")
