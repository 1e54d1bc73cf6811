"""Tasks in Self-Instruct's shape: an instruction, whether it asks for a class, and instances of input and output."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from zephyr.errors import DataError
from zephyr.records.fields import SHOWN_FAULTS, Json, Row, RowFault, brief, listed, printable
from zephyr.records.reading import find_files, read_items

SHAPE = 'rows like {"instruction": "...", "is_classification": false, "instances": [{"input": "", "output": "..."}]}'


class Instance(NamedTuple):
    """An input, empty where the instruction needs none, and the output that is wanted."""

    input: str
    output: str


class Task(NamedTuple):
    """An instruction with its instances; `name` says where it comes from."""

    name: str
    instruction: str
    is_classification: bool
    instances: tuple[Instance, ...] = ()


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file; a DataError with all that is wrong with its rows."""
    tasks: list[Task] = []
    faults: list[RowFault] = []
    for file in find_files(path):
        for item in read_items(file):
            read = item if isinstance(item, RowFault) else _task(item)
            if isinstance(read, RowFault):
                faults.append(read)
            else:
                tasks.append(read)
    if faults:
        said = "; ".join(f"{fault.name}: {fault.what}" for fault in faults[:SHOWN_FAULTS])
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise DataError(printable(str(path)), f"{said}{more}", f"seed tasks are {SHAPE}")
    return tasks


def task_fields(task: Task) -> dict[str, Json]:
    """The fields of a task, which `read_tasks` reads back but for the name."""
    instances: list[Json] = [{"input": instance.input, "output": instance.output} for instance in task.instances]
    return {
        "id": task.name,
        "instruction": task.instruction,
        "is_classification": task.is_classification,
        "instances": instances,
    }


def _task(row: Row) -> Task | RowFault:
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
    return Task(row.name, instruction, kind, instances)


def _instances(listed_instances: Json) -> Iterator[Instance]:
    """The instances that are sound."""
    for one in listed_instances if isinstance(listed_instances, list) else []:
        if isinstance(one, Mapping):
            asked, answered = one.get("input", ""), one.get("output")
            if isinstance(asked, str) and isinstance(answered, str):
                yield Instance(asked, answered)
