"""Inputs and outputs for instructions: whether the answer is a class, then examples, then which of them are sound.

A class is asked for before the input, so that inputs are not all of the class that is easiest to think of.
Self-Instruct, arXiv 2212.10560.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from zephyr.records.messages import Message, Messages
from zephyr.synth.tasks import Instance, Task
from zephyr.synth.wording import template, until_stop
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

CLASS_LABEL = "Class label:"

_WORD_STOPS = re.compile(r"\n|Task")
_EXAMPLE_STOPS = re.compile(r"Example 6|Task:")
_EXAMPLE = re.compile(r"^[^\S\n]*Example\s?\d*\s?[.:]?[^\S\n]*$", re.MULTILINE)
_INPUT = re.compile(r"^[^\S\n]*Input\s?\d*\s?:", re.MULTILINE)
_OUTPUT = re.compile(r"^[^\S\n]*Output\s?\d*\s?:", re.MULTILINE)
_LABEL = re.compile(rf"^[^\S\n]*{CLASS_LABEL}", re.MULTILINE)


@dataclass(frozen=True)
class InstanceSettings:
    """How examples are asked for. The numbers are Self-Instruct's."""

    seed: int = 0
    max_instances: int = 5
    label_tokens: int = 3  # of the answer to: is it a classification?
    output_first_tokens: int = 300
    input_first_tokens: int = 350
    chunk_tasks: int = 1024  # instructions in one call of the teacher


def classify(
    instructions: Iterable[str], teacher: Teacher, settings: InstanceSettings, counts: Counter[str]
) -> Iterator[Task]:
    """Every instruction as a task without instances, which knows whether it asks for a class."""
    named = enumerate(instructions, start=1)
    while chunk := list(itertools.islice(named, settings.chunk_tasks)):
        requests = [_classify_request(number, text, settings) for number, text in chunk]
        for (number, text), (_, reply) in zip(chunk, paired(teacher, requests), strict=True):
            if reply.finish_reason == "error":
                counts["failed: teacher error"] += 1
                continue
            is_classification = says_yes(reply)
            counts["tasks: classification" if is_classification else "tasks: other"] += 1
            yield Task(f"machine task {number}", text, is_classification)


def write_instances(
    tasks: Iterable[Task], teacher: Teacher, settings: InstanceSettings, counts: Counter[str]
) -> Iterator[Task]:
    """The tasks that got sound instances, with them; `counts` says what became of the others."""
    waiting = iter(tasks)
    while chunk := list(itertools.islice(waiting, settings.chunk_tasks)):
        requests = [_instances_request(task, settings) for task in chunk]
        for task, (_, reply) in zip(chunk, paired(teacher, requests), strict=True):
            if reply.finish_reason == "error":
                counts["failed: teacher error"] += 1
                continue
            found = read_instances(reply, task, counts)
            sound = _sound(found, counts)
            if len(sound) > settings.max_instances:
                counts["instances: more than wanted"] += len(sound) - settings.max_instances
                sound = Random(f"{settings.seed} {task.instruction}").sample(sound, settings.max_instances)
            counts["instances: kept"] += len(sound)
            if sound:
                yield task._replace(instances=tuple(sound))
            elif found:
                counts["failed: no sound instance"] += 1


def says_yes(reply: ChatReply) -> bool:
    """Whether the answer is Yes, yes or YES, whatever comes after it on another line; a full stop is forgiven."""
    return until_stop(reply, _WORD_STOPS).text.rstrip(". ") in ("Yes", "yes", "YES")


def ask_for_class(instruction: str) -> Messages:
    """The request to say whether an instruction is a classification task."""
    return (Message("user", template("is_classification").substitute(instruction=instruction)),)


def ask_for_instances(task: Task) -> Messages:
    """The request for examples: output first for classification tasks, input first for others."""
    name = "output_first" if task.is_classification else "input_first"
    return (Message("user", template(name).substitute(instruction=task.instruction)),)


def read_instances(reply: ChatReply, task: Task, counts: Counter[str]) -> list[Instance]:
    """The instances of a reply, of one that was cut off all but the last; counts a reply that holds none."""
    reply = until_stop(reply, _EXAMPLE_STOPS)
    found = _labelled(reply.text) if task.is_classification else _examples(reply.text)
    if reply.finish_reason == "length" and found:
        counts["instances: cut off"] += 1
        found = found[:-1]
    if not found:
        cut_off = reply.finish_reason == "length"
        reason = "empty answer" if not reply.text else "cut off" if cut_off else "not in the form of examples"
        counts[f"failed: {reason}"] += 1
    return found


def instance_fault(instance: Instance) -> str | None:
    """Why an instance is not usable, or None. The filters of Self-Instruct."""
    if not instance.output:
        return "without output"
    if instance.input == instance.output:
        return "output equals input"
    if instance.input.endswith(":") or instance.output.endswith(":"):
        return "ends with a colon"
    return None


def _sound(found: Sequence[Instance], counts: Counter[str]) -> list[Instance]:
    """The usable instances, each once; none where one input has two outputs, for then neither can be trusted."""
    usable: list[Instance] = []
    for instance in found:
        fault = instance_fault(instance)
        if fault is None:
            usable.append(instance)
        else:
            counts[f"instances: {fault}"] += 1
    different = list(dict.fromkeys(usable))
    if len(different) < len(usable):
        counts["instances: twice"] += len(usable) - len(different)
    asked = [instance.input for instance in different if instance.input]
    if len(set(asked)) < len(asked):
        counts["instances: one input with two outputs"] += len(different)
        return []
    return different


def _labelled(text: str) -> list[Instance]:
    """Class labels, each with the input that follows it."""
    instances = []
    for part in _LABEL.split(text)[1:]:
        label, _, asked = part.strip().partition("\n")
        instances.append(Instance(asked.strip(), label.strip()))
    return instances


def _examples(text: str) -> list[Instance]:
    """Numbered examples, or one without a number if it has an output."""
    if _EXAMPLE.search(text):
        return [_example(part) for part in _EXAMPLE.split(text) if part.strip()]
    return [_example(text)] if _OUTPUT.search(text) else []


def _example(text: str) -> Instance:
    before, *outputs = _OUTPUT.split(text)
    if not outputs:
        return Instance("", text.strip())
    # A second pair within one example does not belong to it.
    output = _INPUT.split(outputs[0])[0]
    return Instance(_INPUT.sub("", before, count=1).strip(), output.strip())


def _classify_request(number: int, instruction: str, settings: InstanceSettings) -> ChatRequest:
    return ChatRequest(
        key=f"class {number}",
        messages=ask_for_class(instruction),
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_tokens=settings.label_tokens,
        seed=seed_for(settings.seed, "class", instruction),
    )


def _instances_request(task: Task, settings: InstanceSettings) -> ChatRequest:
    return ChatRequest(
        key=f"instances {task.name}",
        messages=ask_for_instances(task),
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_tokens=settings.output_first_tokens if task.is_classification else settings.input_first_tokens,
        seed=seed_for(settings.seed, "instances", task.instruction),
    )
