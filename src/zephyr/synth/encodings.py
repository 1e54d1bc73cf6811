"""Instances as dialogues: an instruction and its input in one of several layouts, drawn at random, and the output.

As Self-Instruct did it, 7 layouts with an input and 6 without, so that no single layout is learnt by heart.
"""

from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple

from zephyr.records.messages import Message
from zephyr.records.rows import Chat
from zephyr.synth.tasks import Instance, Task

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


class Layouts(NamedTuple):
    """The layouts to draw from."""

    with_input: tuple[str, ...] = WITH_INPUT
    without_input: tuple[str, ...] = WITHOUT_INPUT


VARIED = Layouts()
PLAIN = Layouts(WITH_INPUT[:1], WITHOUT_INPUT[:1])


def encode_tasks(tasks: Iterable[Task], *, layouts: Layouts = VARIED, seed: int = 0) -> Iterator[Chat]:
    """A dialogue for every instance; its layout depends on the seed and the instance alone."""
    for task in tasks:
        for number, instance in enumerate(task.instances, start=1):
            asked = _prompt(task.instruction, instance, layouts, seed)
            messages = (Message("user", asked), Message("assistant", instance.output))
            yield Chat(f"{task.name} instance {number}", messages, "self_instruct")


def _prompt(instruction: str, instance: Instance, layouts: Layouts, seed: int) -> str:
    fitting = layouts.with_input if instance.input else layouts.without_input
    layout = Random(f"{seed} {instruction} {instance}").choice(fitting)
    return layout.format(instruction=instruction.strip(), input=instance.input.strip())
