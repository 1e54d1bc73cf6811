"""Where the local copies of the tasks' data sets are in the data folder, and what they have lost.

How their rows are read is written in `local_rows`; deviations stand beside every score that a copy has given.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.evaluate.harness import local_rows as rows
from zephyr.evaluate.harness.local_rows import Doc


class Split(NamedTuple):
    """A file below the data folder, and how it is read."""

    file: str
    read: Callable[[Path], Iterator[Doc]]


@dataclass(frozen=True)
class LocalCopy:
    """The splits of a data set, where it is from, and in what the copy differs from the hub's."""

    splits: Mapping[str, Split]
    origin: str
    deviations: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The files below the data folder."""
        return list(dict.fromkeys(split.file for split in self.splits.values()))

    def load(self, folder: Path) -> dict[str, list[Doc]]:
        """The rows of every split. Raises DataError for a file that is not there or not as it was published."""
        missing = [file for file in self.files if not (folder / file).is_file()]
        if missing:
            remedy = f"put {self.origin} there, or leave --data out to read the hub"
            raise DataError(str(folder), f"there is no file {missing[0]}", remedy)
        return {name: self._rows(folder / split.file, split.read) for name, split in self.splits.items()}

    def _rows(self, path: Path, read: Callable[[Path], Iterator[Doc]]) -> list[Doc]:
        try:
            found = list(read(path))
        except (KeyError, ValueError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
            what = f"is not as {self.origin} is published ({type(error).__name__}: {error})"
            raise DataError(str(path), what, "fetch the file again") from error
        if not found:
            raise DataError(str(path), "holds no rows", "fetch the file again")
        return found


def _mmlu(subject: str) -> LocalCopy:
    splits = {name: Split("mmlu/mmlu.zip", partial(rows.mmlu_rows, name, subject)) for name in ("dev", "test")}
    return LocalCopy(splits, "MMLU's data (hendrycks/test, data.tar repacked as zip: data/{dev,test}/*.csv)")


def local_copies(subjects: tuple[str, ...]) -> dict[str, LocalCopy]:
    """The local copies by task; `subjects` are those of MMLU."""
    return LOCAL_COPIES | {f"mmlu_{subject}": _mmlu(subject) for subject in subjects}


_TRUTHFULQA = LocalCopy(
    {"validation": Split("truthfulqa/TruthfulQA.csv", rows.truthfulqa_rows)},
    "TruthfulQA.csv (sylinrl/TruthfulQA)",
    ("choices are rebuilt from TruthfulQA.csv, whose latest corrections the hub's copy may not have",),
)

LOCAL_COPIES = {
    "arc_challenge": LocalCopy(
        {
            "train": Split("arc_challenge/train.jsonl", rows.arc_rows),
            "validation": Split("arc_challenge/dev.jsonl", rows.arc_rows),
            "test": Split("arc_challenge/test.jsonl", rows.arc_rows),
        },
        "ARC-Challenge as JSON lines with query, choices and gold (AI2's request files)",
    ),
    "hellaswag": LocalCopy(
        {
            "train": Split("hellaswag/train_fewshots_olmes11.jsonl", rows.json_rows),
            "validation": Split("hellaswag/hellaswag_val_full.txt.bz2", rows.hellaswag_rows),
        },
        "HellaSwag's validation text (six lines an item) with OLMES's 11 training items",
        ("shots are drawn from 11 training items, not from 39,905",),
    ),
    "truthfulqa_mc1": _TRUTHFULQA,
    "truthfulqa_mc2": _TRUTHFULQA,
    "winogrande": LocalCopy(
        {
            "train": Split("winogrande/train_xl.jsonl.gz", rows.json_rows),
            "validation": Split("winogrande/dev.jsonl", rows.json_rows),
        },
        "Winogrande XL's train_xl.jsonl.gz and dev.jsonl",
    ),
    "gsm8k": LocalCopy(
        {"train": Split("gsm8k/train.jsonl", rows.json_rows), "test": Split("gsm8k/test.jsonl", rows.json_rows)},
        "GSM8K's train.jsonl and test.jsonl (openai/grade-school-math)",
    ),
    "drop": LocalCopy(
        {
            "train": Split("drop/drop_v0_dev.jsonl.gz", partial(rows.drop_rows, "train")),
            "validation": Split("drop/drop_v0_dev.jsonl.gz", partial(rows.drop_rows, "validation")),
        },
        "DROP's development set (drop_v0_dev.jsonl.gz of openai/simple-evals)",
        (
            f"no training set: shots come from 1 in {rows.DROP_SHOTS} of the development passages, which are left out",
            "answers of several spans are one span joined by 'and'",
        ),
    ),
    "ifeval": LocalCopy({"train": Split("ifeval/input_data.jsonl", rows.ifeval_rows)}, "IFEval's input_data.jsonl"),
}
