"""Pairs of answers with labels of which is better, to audit a judge: LLMBar, PandaLM, and the closed world's own."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.records.fields import Json, Row, brief, printable
from zephyr.records.messages import Message, Messages
from zephyr.records.reading import read_rows
from zephyr.records.rows import Answer, Rated
from zephyr.teachers.protocol import seed_for
from zephyr.world import HELDOUT_SPLIT, faulty_answer, ideal_answer, prompts

FIRST_BETTER, EQUAL, SECOND_BETTER = 1, 0, -1
# How the sets write that the first answer is better, the second, or neither.
_WRITTEN = {1: FIRST_BETTER, 2: SECOND_BETTER, 0: EQUAL}


class AuditItem(NamedTuple):
    """A prompt with two answers; `label` is FIRST_BETTER, EQUAL or SECOND_BETTER, `labels` those of every annotator."""

    row: Rated
    label: int
    labels: tuple[int, ...] = ()


def read_llmbar(folder: Path) -> Iterator[AuditItem]:
    """The items of all JSON files of a folder, in the format of LLMBar: input, output_1, output_2, label.

    Raises DataError for a folder that does not exist, and for rows in another format. arXiv 2310.07641
    """
    if not folder.is_dir():
        raise DataError(printable(str(folder)), "there is no such folder", "name the folder with LLMBar's JSON files")
    for file in sorted(folder.glob("*.json")):
        name = file.stem.removesuffix("__dataset").replace("__", " ")
        for row in read_rows(file):
            fields = row.fields
            prompt = (Message("user", _text(row, "input")),)
            yield AuditItem(_pair(row, name, prompt, ("output_1", "output_2")), _label(row, fields.get("label")))


def read_pandalm(file: Path) -> Iterator[AuditItem]:
    """The items of PandaLM's test set with a majority label; the others are skipped.

    Raises DataError for rows in another format. arXiv 2306.05087
    """
    for row in read_rows(file):
        fields = row.fields
        votes = [fields[name] for name in sorted(fields) if name.startswith("annotator")]
        if not votes:
            raise DataError(row.name, "has no field that begins with 'annotator'", "check that it is the right file")
        labels = tuple(_label(row, vote) for vote in votes)
        ((label, count),) = Counter(labels).most_common(1)
        if 2 * count > len(labels):
            given = _text(row, "input")
            instruction = _text(row, "instruction")
            prompt = (Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction),)
            yield AuditItem(_pair(row, "PandaLM", prompt, ("response1", "response2")), label, labels)


def world_items(count: int, *, seed: int) -> Iterator[AuditItem]:
    """Right and faulty answers to prompts of the closed world, in random order."""
    for prompt in prompts(HELDOUT_SPLIT, seed, count):
        rng = random.Random(seed_for(seed, "audit", prompt.name))
        right = Answer(ideal_answer(prompt.messages), "right")
        faulty = Answer(faulty_answer(prompt.messages, rng).text, "faulty")
        is_first = rng.random() < 0.5
        answers = (right, faulty) if is_first else (faulty, right)
        yield AuditItem(
            Rated(prompt.name, prompt.messages, answers, "closed world"), FIRST_BETTER if is_first else SECOND_BETTER
        )


def _pair(row: Row, name: str, prompt: Messages, fields: tuple[str, str]) -> Rated:
    return Rated(row.name, prompt, tuple(Answer(_text(row, field)) for field in fields), name)


def _text(row: Row, name: str) -> str:
    if name not in row.fields:
        raise DataError(row.name, f"has no field '{name}'", "check that it is the right file")
    value = row.fields[name]
    # In PandaLM's file a spreadsheet turned a few answers such as "True" into values, and empty ones into null.
    return value if isinstance(value, str) else "" if value is None else str(value)


def _label(row: Row, value: Json) -> int:
    if not isinstance(value, int) or value not in _WRITTEN:
        raise DataError(row.name, f"has a label that is not 0, 1 or 2, got {brief(value)}", "check the file")
    return _WRITTEN[value]
