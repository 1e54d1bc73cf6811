"""Rows of the files that benchmarks are passed around in, as the columns that the hub's data sets have.

Which file is which task's is said in `local_data`. A file that is not as published raises whatever reading it raises.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from zephyr.records.fields import Json
from zephyr.records.reading import read_rows

Doc = dict[str, Json]
# One in so many of DROP's passages gives the shots, as no training set is there.
DROP_SHOTS = 64
_HELLASWAG_LINES = 6


def json_rows(path: Path) -> Iterator[Doc]:
    """The rows of JSON lines as they are."""
    for row in read_rows(path):
        yield dict(row.fields)


def _texts(value: Json) -> list[str]:
    assert isinstance(value, list)
    return [str(one) for one in value]


def arc_rows(path: Path) -> Iterator[Doc]:
    """Rows of AI2's request files, whose query has the task's own frame around the question."""
    for row in json_rows(path):
        choices, gold = _texts(row["choices"]), int(str(row["gold"]))
        labels: list[Json] = [chr(ord("A") + index) for index in range(len(choices))]
        question = str(row["query"]).removeprefix("Question: ").removesuffix("\nAnswer:")
        texts: list[Json] = [*choices]
        options: Json = {"text": texts, "label": labels}
        yield {"id": row.get("id", ""), "question": question, "choices": options, "answerKey": labels[gold]}


def hellaswag_rows(path: Path) -> Iterator[Doc]:
    """Six lines an item: activity and context, label, four endings; the context's own parts are told apart again."""
    lines = bz2.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")
    if len(lines) % _HELLASWAG_LINES:
        raise ValueError(f"{len(lines)} lines are no multiple of {_HELLASWAG_LINES}")
    for number, start in enumerate(range(0, len(lines), _HELLASWAG_LINES)):
        heading, label, *endings = lines[start : start + _HELLASWAG_LINES]
        activity, _, context = heading.partition(": ")
        # ctx_b is the beginning of a sentence, in lower case; the task capitalises it.
        begun = re.fullmatch(r"""(.*[.!?"')\]]) ([a-z][^.!?]*)""", context, flags=re.DOTALL)
        ctx_a, ctx_b = begun.groups() if begun else (context, "")
        doc: Doc = {"ind": number, "activity_label": activity, "ctx_a": ctx_a, "ctx_b": ctx_b, "label": label}
        yield doc | {"endings": cast("list[Json]", endings)}


def mmlu_rows(split: str, subject: str, path: Path) -> Iterator[Doc]:
    """Rows of one subject: question, four choices, the answer's letter; no header."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(f"data/{split}/{subject}_{split}.csv").decode()
    for question, *choices, answer in csv.reader(io.StringIO(text)):
        doc: Doc = {"question": question, "subject": subject, "answer": "ABCD".index(answer)}
        yield doc | {"choices": cast("list[Json]", choices)}


def truthfulqa_rows(path: Path) -> Iterator[Doc]:
    """Both multiple-choice forms out of the answer lists; as published, every answer ends in a full stop."""
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
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
    for number, row in enumerate(json_rows(path)):
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
    rows = list(json_rows(path))
    options = [[cast("dict[str, Json]", one) for one in cast("list[Json]", row["kwargs"])] for row in rows]
    names = sorted({name for of_row in options for one in of_row for name in one})
    for row, of_row in zip(rows, options, strict=True):
        yield row | {"kwargs": [{name: one.get(name) for name in names} for one in of_row]}
