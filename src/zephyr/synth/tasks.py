"""Tasks in Self-Instruct's form: an instruction with instances of input and output; their files, and their dialogues.

A dialogue puts instruction and input into one of several layouts, drawn at random, as Self-Instruct did, so that no
single layout is learnt by heart.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from zephyr.errors import DataError
from zephyr.records.fields import SHOWN_FAULTS, Json, Row, RowFault, brief, listed, printable
from zephyr.records.messages import Message
from zephyr.records.reading import data_files, read_items
from zephyr.records.rows import Chat

WITH_INPUT = (
    "{instruction}\n\n{input}",
    "{instruction}\n{input}",
    "{instruction}\n\nInput: {input}",
    "{instruction}\nInput: {input}\nOutput:",
    "Task: {instruction}\n\n{input}",
    "Task: {instruction}\nInput: {input}\nOutput:",
    "{input}\n\n{instruction}",
)
WITHOUT_INPUT = (
    "{instruction}",
    "{instruction}\n\nOutput:",
    "{instruction}\n\nAnswer:",
    "Task: {instruction}",
    "Task: {instruction}\n\nOutput:",
    "Here is a task for you.\n\n{instruction}",
)
_FORM = 'rows like {"instruction": "...", "is_classification": false, "instances": [{"input": "", "output": "..."}]}'


class TaskInstance(NamedTuple):
    """An input, empty where the instruction needs none, and the expected output."""

    input: str
    output: str


class InstructionTask(NamedTuple):
    """An instruction with its instances; `name` says where it comes from."""

    name: str
    instruction: str
    is_classification: bool
    instances: tuple[TaskInstance, ...] = ()


def read_tasks(path: Path) -> list[InstructionTask]:
    """The tasks of a file. Raises DataError with all that is wrong with its rows."""
    tasks: list[InstructionTask] = []
    faults: list[RowFault] = []
    for file in data_files(path):
        for item in read_items(file):
            read = item if isinstance(item, RowFault) else _task(item)
            if isinstance(read, RowFault):
                faults.append(read)
            else:
                tasks.append(read)
    if faults:
        said = "; ".join(f"{fault.name}: {fault.what}" for fault in faults[:SHOWN_FAULTS])
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise DataError(printable(str(path)), f"{said}{more}", f"seed tasks are {_FORM}")
    return tasks


def task_fields(task: InstructionTask) -> dict[str, Json]:
    """The fields of a task's row, which `read_tasks` reads back except for the name."""
    instances: list[Json] = [{"input": instance.input, "output": instance.output} for instance in task.instances]
    return {
        "id": task.name,
        "instruction": task.instruction,
        "is_classification": task.is_classification,
        "instances": instances,
    }


def encode_tasks(
    tasks: Iterable[InstructionTask], *, layouts: Literal["varied", "plain"] = "varied", seed: int = 0
) -> Iterator[Chat]:
    """A dialogue for every instance; its layout depends on the seed and the instance alone."""
    for task in tasks:
        for number, instance in enumerate(task.instances, start=1):
            choices: tuple[str, ...] = WITH_INPUT if instance.input else WITHOUT_INPUT
            if layouts == "plain":
                choices = choices[:1]
            # This exact text is part of the seed: another would draw other layouts for the same tasks.
            drawn_by = f"Instance(input={instance.input!r}, output={instance.output!r})"
            layout = Random(f"{seed} {task.instruction} {drawn_by}").choice(choices)
            prompt = layout.format(instruction=task.instruction.strip(), input=instance.input.strip())
            messages = (Message("user", prompt), Message("assistant", instance.output))
            yield Chat(f"{task.name} instance {number}", messages, "self_instruct")


def _task(row: Row) -> InstructionTask | RowFault:
    instruction, kind = row.fields.get("instruction"), row.fields.get("is_classification", False)
    if not isinstance(instruction, str) or not instruction.strip():
        there = f"got {brief(instruction)}" if "instruction" in row.fields else f"has the fields {listed(row.fields)}"
        return RowFault(row.name, "no instruction", f"has no instruction, {there}")
    if not isinstance(kind, bool):
        return RowFault(row.name, "is_classification", f"is_classification is true or false, got {brief(kind)}")
    listed_instances = row.fields.get("instances", [])
    instances = tuple(_instances(listed_instances))
    if not isinstance(listed_instances, list) or len(instances) != len(listed_instances):
        return RowFault(
            row.name, "instances", f"instances are a list of input and output, got {brief(listed_instances)}"
        )
    return InstructionTask(row.name, instruction, kind, instances)


def _instances(listed_instances: Json) -> Iterator[TaskInstance]:
    """The instances with an input and an output that are texts."""
    for one in listed_instances if isinstance(listed_instances, list) else []:
        if isinstance(one, Mapping):
            given, output = one.get("input", ""), one.get("output")
            if isinstance(given, str) and isinstance(output, str):
                yield TaskInstance(given, output)
