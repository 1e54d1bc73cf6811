"""Local copies of the tasks' data sets: their files, how these are read, how they deviate.

Rows get the columns that the hub's data sets have; deviations stand beside every score that a copy has given. A file
that is not as published raises whatever reading it raises, which `LocalCopy` turns into a DataError.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from zephyr.errors import DataError
from zephyr.evaluation.harness.row_checks import (
    check_drop,
    check_gsm8k,
    check_ifeval,
    check_truthfulqa,
    check_winogrande,
    choice_texts,
    gold_index,
    gold_letter,
)
from zephyr.records.fields import Json
from zephyr.records.reading import read_rows

Doc = dict[str, Json]
# One in so many of DROP's passages gives the shots, as no training set is there.
DROP_SHOTS = 64
_HELLASWAG_LINES = 6
_MMLU_CHOICES = 4


def json_rows(path: Path, check: Callable[[Doc, str], None] = lambda _row, _where: None) -> Iterator[Doc]:
    """The rows of JSON lines as they are, each checked."""
    for row in read_rows(path):
        fields = dict(row.fields)
        check(fields, row.name)
        yield fields


def arc_rows(path: Path) -> Iterator[Doc]:
    """Rows of AI2's request files, whose query has the task's own frame around the question."""
    for named in read_rows(path):
        row = named.fields
        choices = choice_texts(row["choices"], named.name)
        gold = gold_index(row["gold"], len(choices), named.name)
        labels: list[Json] = [chr(ord("A") + index) for index in range(len(choices))]
        question = str(row["query"]).removeprefix("Question: ").removesuffix("\nAnswer:")
        texts: list[Json] = [*choices]
        options: Json = {"text": texts, "label": labels}
        yield {"id": row.get("id", ""), "question": question, "choices": options, "answerKey": labels[gold]}


def hellaswag_rows(path: Path) -> Iterator[Doc]:
    """The items of a file with six lines each: activity and context, label, four endings.

    The context is split into its two parts again. Raises ValueError if the number of lines is no multiple of six.
    """
    lines = bz2.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")
    if len(lines) % _HELLASWAG_LINES:
        raise ValueError(f"{len(lines)} lines are no multiple of {_HELLASWAG_LINES}")
    for number, start in enumerate(range(0, len(lines), _HELLASWAG_LINES)):
        heading, label, *endings = lines[start : start + _HELLASWAG_LINES]
        where = f"{path.name} item {number + 1} (line {start + 1})"
        gold_index(label, len(choice_texts(cast("list[Json]", endings), where)), where)
        activity, _, context = heading.partition(": ")
        # ctx_b is the beginning of a sentence, in lower case; the task capitalises it.
        begun = re.fullmatch(r"""(.*[.!?"')\]]) ([a-z][^.!?]*)""", context, flags=re.DOTALL)
        ctx_a, ctx_b = begun.groups() if begun else (context, "")
        doc: Doc = {"ind": number, "activity_label": activity, "ctx_a": ctx_a, "ctx_b": ctx_b, "label": label}
        yield doc | {"endings": cast("list[Json]", endings)}


def hellaswag_shots(path: Path) -> Iterator[Doc]:
    """The rows that shots are drawn from."""

    def check(row: Doc, where: str) -> None:
        gold_index(row["label"], len(choice_texts(row["endings"], where)), where)

    yield from json_rows(path, check)


def mmlu_rows(split: str, subject: str, path: Path) -> Iterator[Doc]:
    """Rows of one subject: question, four choices, the answer's letter; no header. Raises ValueError for fewer."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(f"data/{split}/{subject}_{split}.csv").decode()
    for number, (question, *choices, answer) in enumerate(csv.reader(io.StringIO(text)), start=1):
        where = f"{path.name}, {subject}_{split}.csv row {number}"
        if len(choice_texts(cast("list[Json]", choices), where)) != _MMLU_CHOICES:
            raise ValueError(f"{where} has {len(choices)} choices")
        doc: Doc = {"question": question, "subject": subject, "answer": gold_letter(answer, where)}
        yield doc | {"choices": cast("list[Json]", choices)}


def truthfulqa_rows(path: Path) -> Iterator[Doc]:
    """Both multiple-choice forms out of the answer lists; as published, every answer ends in a full stop."""
    for number, row in enumerate(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))), start=1):
        check_truthfulqa(row, f"{path.name} row {number}")
        best = _closed(row["Best Answer"])
        right, wrong = (_answers(row[name]) for name in ("Correct Answers", "Incorrect Answers"))
        right = [best, *(answer for answer in right if answer != best)]
        yield {
            "question": row["Question"].strip(),
            "mc1_targets": _targets([best], wrong),
            "mc2_targets": _targets(right, wrong),
        }


def _answers(text: str) -> list[str]:
    return list(dict.fromkeys(_closed(one) for one in text.split(";") if one.strip()))


def _closed(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."


def _targets(right: Sequence[str], wrong: Sequence[str]) -> Json:
    return {"choices": [*right, *wrong], "labels": [*[1] * len(right), *[0] * len(wrong)]}


def drop_rows(part: str, path: Path) -> Iterator[Doc]:
    """Rows of the development set: those of the passages that give the shots (`train`), or all others."""
    for number, row in enumerate(json_rows(path, check_drop)):
        passage, _, question = str(row["context"]).removesuffix("\nAnswer:").rpartition("\nQuestion: ")
        passage = passage.removeprefix("Passage: ")
        gives_shots = int(hashlib.sha256(passage.encode()).hexdigest(), 16) % DROP_SHOTS == 0
        if gives_shots != (part == "train"):
            continue
        golds = [_drop_answer(text) for text in str(row["ref_text"]).split("|")]
        others = {name: [gold[name] for gold in golds] for name in golds[0]}
        doc: Doc = {"query_id": str(number), "section_id": "", "passage": passage, "question": question}
        yield doc | {"answer": cast("Json", golds[0]), "validated_answers": cast("Json", others)}


def _drop_answer(text: str) -> dict[str, Json]:
    # The kind of an answer is not kept; as one span it is compared as the same words and numbers.
    return {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": [text]}


def ifeval_rows(path: Path) -> Iterator[Doc]:
    """The prompts; options that a prompt does not use are there as null, since rows of a table are alike."""
    rows = list(json_rows(path, check_ifeval))
    options = [[cast("dict[str, Json]", one or {}) for one in cast("list[Json]", row["kwargs"])] for row in rows]
    names = sorted({name for of_row in options for one in of_row for name in one})
    for row, of_row in zip(rows, options, strict=True):
        yield row | {"kwargs": [{name: one.get(name) for name in names} for one in of_row]}


class LocalSplit(NamedTuple):
    """A file below the data folder, and how it is read."""

    file: str
    read: Callable[[Path], Iterator[Doc]]


@dataclass(frozen=True)
class LocalCopy:
    """The splits of a data set, where it is from, and in what the copy differs from the hub's."""

    splits: Mapping[str, LocalSplit]
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
    splits = {name: LocalSplit("mmlu/mmlu.zip", partial(mmlu_rows, name, subject)) for name in ("dev", "test")}
    return LocalCopy(splits, "MMLU's data (hendrycks/test, data.tar repacked as zip: data/{dev,test}/*.csv)")


def local_copies(subjects: tuple[str, ...]) -> dict[str, LocalCopy]:
    """The local copies by task; `subjects` are those of MMLU."""
    return LOCAL_COPIES | {f"mmlu_{subject}": _mmlu(subject) for subject in subjects}


_TRUTHFULQA = LocalCopy(
    {"validation": LocalSplit("truthfulqa/TruthfulQA.csv", truthfulqa_rows)},
    "TruthfulQA.csv (sylinrl/TruthfulQA)",
    ("choices are rebuilt from TruthfulQA.csv, whose latest corrections the hub's copy may not have",),
)

LOCAL_COPIES = {
    "arc_challenge": LocalCopy(
        {
            "train": LocalSplit("arc_challenge/train.jsonl", arc_rows),
            "validation": LocalSplit("arc_challenge/dev.jsonl", arc_rows),
            "test": LocalSplit("arc_challenge/test.jsonl", arc_rows),
        },
        "ARC-Challenge as JSON lines with query, choices and gold (AI2's request files)",
    ),
    "hellaswag": LocalCopy(
        {
            "train": LocalSplit("hellaswag/train_fewshots_olmes11.jsonl", hellaswag_shots),
            "validation": LocalSplit("hellaswag/hellaswag_val_full.txt.bz2", hellaswag_rows),
        },
        "HellaSwag's validation text (six lines an item) with OLMES's 11 training items",
        ("shots are drawn from 11 training items, not from 39,905",),
    ),
    "truthfulqa_mc1": _TRUTHFULQA,
    "truthfulqa_mc2": _TRUTHFULQA,
    "winogrande": LocalCopy(
        {
            "train": LocalSplit("winogrande/train_xl.jsonl.gz", partial(json_rows, check=check_winogrande)),
            "validation": LocalSplit("winogrande/dev.jsonl", partial(json_rows, check=check_winogrande)),
        },
        "Winogrande XL's train_xl.jsonl.gz and dev.jsonl",
    ),
    "gsm8k": LocalCopy(
        {
            "train": LocalSplit("gsm8k/train.jsonl", partial(json_rows, check=check_gsm8k)),
            "test": LocalSplit("gsm8k/test.jsonl", partial(json_rows, check=check_gsm8k)),
        },
        "GSM8K's train.jsonl and test.jsonl (openai/grade-school-math)",
    ),
    "drop": LocalCopy(
        {
            "train": LocalSplit("drop/drop_v0_dev.jsonl.gz", partial(drop_rows, "train")),
            "validation": LocalSplit("drop/drop_v0_dev.jsonl.gz", partial(drop_rows, "validation")),
        },
        "DROP's development set (drop_v0_dev.jsonl.gz of openai/simple-evals)",
        (
            f"no training set: shots come from 1 in {DROP_SHOTS} of the development passages, which are left out",
            "answers of several spans are one span joined by 'and'",
        ),
    ),
    "ifeval": LocalCopy({"train": LocalSplit("ifeval/input_data.jsonl", ifeval_rows)}, "IFEval's input_data.jsonl"),
}
