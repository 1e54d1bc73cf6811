"""Inputs and outputs for instructions: is the answer a class, then examples, then which of them are usable.

For classification tasks the class is requested before the input, so that the inputs do not all belong to the class that
is easiest to think of. Self-Instruct, arXiv 2212.10560.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.records.messages import Message, Messages
from zephyr.synth.dialogues import template, until_stop
from zephyr.synth.tasks import InstructionTask, TaskInstance
from zephyr.teachers.protocol import ChatReply, ChatRequest, Teacher, paired, seed_for

CLASS_LABEL = "Class label:"
# Longest replies, as published: to "is it a classification task?", to examples with the output or the input first.
_LABEL_TOKENS, _OUTPUT_FIRST_TOKENS, _INPUT_FIRST_TOKENS = 3, 300, 350
# Instructions in one call of the teacher.
_CHUNK_TASKS = 1024

_WORD_STOPS = re.compile(r"\n|Task")
_EXAMPLE_STOPS = re.compile(r"Example 6|Task:")
# Chat models make headings and bold words of these.
_OPEN, _BOLD = r"^[^\S\n]*(?:#{1,6}[^\S\n]*)?(?:[-*][^\S\n]+)?[*_]{0,3}", "[*_]{0,3}"
_EXAMPLE = re.compile(rf"{_OPEN}Example\s?\d*{_BOLD}\s?[.:]?{_BOLD}[^\S\n]*$", re.MULTILINE)
_INPUT = re.compile(rf"{_OPEN}Input\s?\d*{_BOLD}\s?:{_BOLD}", re.MULTILINE)
_OUTPUT = re.compile(rf"{_OPEN}Output\s?\d*{_BOLD}\s?:{_BOLD}", re.MULTILINE)
_LABEL = re.compile(rf"{_OPEN}{CLASS_LABEL[:-1]}{_BOLD}\s?:{_BOLD}", re.MULTILINE)
_FENCE = re.compile(r"^```\w*[^\S\n]*\n?|\n?```[^\S\n]*$")
# The last words of a chat model, which are no output.
_FAREWELL = re.compile(
    r"\n\s*\n(?:I hope|Let me know|Feel free|Please let me know|If you (?:need|want|have|would))[^\n]*\Z"
)


def classify(
    instructions: Iterable[str], teacher: Teacher, counts: Counter[str], *, seed: int
) -> Iterator[InstructionTask]:
    """Every instruction as a task without instances, which knows whether it is a classification task."""
    named = enumerate(instructions, start=1)
    while chunk := list(itertools.islice(named, _CHUNK_TASKS)):
        requests = [
            _greedy(f"class {number}", ask_for_class(text), _LABEL_TOKENS, seed_for(seed, "class", text))
            for number, text in chunk
        ]
        for (number, text), (_, reply) in zip(chunk, paired(teacher, requests), strict=True):
            if reply.finish_reason == "error":
                counts["failed: teacher error"] += 1
                continue
            is_classification = says_yes(reply)
            counts["tasks: classification" if is_classification else "tasks: other"] += 1
            yield InstructionTask(f"machine task {number}", text, is_classification)


def write_instances(
    tasks: Iterable[InstructionTask], teacher: Teacher, section: SelfInstructSynth, counts: Counter[str], *, seed: int
) -> Iterator[InstructionTask]:
    """The tasks that got usable instances, with them; `counts` says what became of the others."""
    waiting = iter(tasks)
    while chunk := list(itertools.islice(waiting, _CHUNK_TASKS)):
        requests = [_instances_request(task, seed) for task in chunk]
        for task, (_, reply) in zip(chunk, paired(teacher, requests), strict=True):
            if reply.finish_reason == "error":
                counts["failed: teacher error"] += 1
                continue
            found = read_instances(reply, task, counts)
            usable = _usable(found, counts)
            if len(usable) > section.max_instances:
                counts["instances: more than wanted"] += len(usable) - section.max_instances
                usable = Random(f"{seed} {task.instruction}").sample(usable, section.max_instances)
            counts["instances: kept"] += len(usable)
            if usable:
                yield task._replace(instances=tuple(usable))
            elif found:
                counts["failed: no sound instance"] += 1


def says_yes(reply: ChatReply) -> bool:
    """Whether the answer is Yes, yes or YES, whatever comes after it on another line; a full stop is ignored."""
    return until_stop(reply, _WORD_STOPS).text.strip(".* ") in ("Yes", "yes", "YES")


def ask_for_class(instruction: str) -> Messages:
    """The request to say whether an instruction is a classification task."""
    return (Message("user", template("is_classification").substitute(instruction=instruction)),)


def ask_for_instances(task: InstructionTask) -> Messages:
    """The request for examples: output first for classification tasks, input first for others."""
    name = "output_first" if task.is_classification else "input_first"
    return (Message("user", template(name).substitute(instruction=task.instruction)),)


def read_instances(reply: ChatReply, task: InstructionTask, counts: Counter[str]) -> list[TaskInstance]:
    """The instances of a reply, of one that was cut off all but the last; counts a reply that holds none."""
    bare = _FAREWELL.sub("", _FENCE.sub("", reply.text.strip()))
    reply = until_stop(reply._replace(text=bare), _EXAMPLE_STOPS)
    found = _labelled(reply.text) if task.is_classification else _examples(reply.text)
    if reply.finish_reason == "length" and found:
        counts["instances: cut off"] += 1
        found = found[:-1]
    if not found:
        cut_off = reply.finish_reason == "length"
        reason = "empty answer" if not reply.text else "cut off" if cut_off else "not in the form of examples"
        counts[f"failed: {reason}"] += 1
    return found


def instance_fault(instance: TaskInstance) -> str | None:
    """Why an instance is not usable, or None. Self-Instruct's filters."""
    if not instance.output:
        return "without output"
    if instance.input == instance.output:
        return "output equals input"
    if instance.input.endswith(":") or instance.output.endswith(":"):
        return "ends with a colon"
    return None


def _usable(found: Sequence[TaskInstance], counts: Counter[str]) -> list[TaskInstance]:
    """The usable instances, each once; none where one input has two outputs, for then neither can be trusted."""
    faultless: list[TaskInstance] = []
    for instance in found:
        fault = instance_fault(instance)
        if fault is None:
            faultless.append(instance)
        else:
            counts[f"instances: {fault}"] += 1
    different = list(dict.fromkeys(faultless))
    if len(different) < len(faultless):
        counts["instances: twice"] += len(faultless) - len(different)
    inputs = [instance.input for instance in different if instance.input]
    if len(set(inputs)) < len(inputs):
        counts["instances: one input with two outputs"] += len(different)
        return []
    return different


def _labelled(text: str) -> list[TaskInstance]:
    """Class labels, each with the input that follows it."""
    instances = []
    for part in _LABEL.split(text)[1:]:
        label, _, given = part.strip().partition("\n")
        instances.append(TaskInstance(given.strip(), label.strip(" \t*_")))
    return instances


def _examples(text: str) -> list[TaskInstance]:
    """Numbered examples, or one without a number if it has an output; what announces them is none."""
    head, *parts = _EXAMPLE.split(text)
    if parts:
        begun = [head] if _OUTPUT.search(head) else []
        return [_example(part) for part in (*begun, *parts) if part.strip()]
    marks = [mark for mark in (_INPUT.search(text), _OUTPUT.search(text)) if mark]
    return [_example(text[min(mark.start() for mark in marks) :])] if _OUTPUT.search(text) else []


def _example(text: str) -> TaskInstance:
    before, *outputs = _OUTPUT.split(text)
    if not outputs:
        return TaskInstance("", text.strip())
    # A second pair within one example does not belong to it.
    output = _INPUT.split(outputs[0])[0]
    return TaskInstance(_INPUT.sub("", before, count=1).strip(), output.strip())


def _instances_request(task: InstructionTask, seed: int) -> ChatRequest:
    longest = _OUTPUT_FIRST_TOKENS if task.is_classification else _INPUT_FIRST_TOKENS
    own_seed = seed_for(seed, "instances", task.instruction)
    return _greedy(f"instances {task.name}", ask_for_instances(task), longest, own_seed)


def _greedy(key: str, messages: Messages, max_tokens: int, seed: int) -> ChatRequest:
    return ChatRequest(key, messages, temperature=0.0, top_p=1.0, top_k=0, max_tokens=max_tokens, seed=seed)
