"""Self-Instruct from its seeds to dialogues: instructions grow, are told apart, and get instances.

Growing goes on where it stopped (`rounds_file`). The later steps ask the same again after a stop, so the teacher
should have a ledger before it (`zephyr.teachers.ledger.cached_teacher`), which repeats no finished call.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.data.read.sources import held_out
from zephyr.errors import DataError
from zephyr.records.messages import Messages
from zephyr.records.rows import Chat, Prompt
from zephyr.synth.instances import InstanceSettings, classify, write_instances
from zephyr.synth.instructions import GrowthSettings, InstructionPool, NewInstruction
from zephyr.synth.rounds_file import RoundsFile
from zephyr.synth.tasks import Task, read_tasks
from zephyr.teachers.protocol import Teacher, seed_for


class Instructed(NamedTuple):
    """What came of the seeds: the new instructions, and those of them that got instances, as tasks."""

    instructions: list[NewInstruction]
    tasks: list[Task]
    counts: Counter[str]


class Divided(NamedTuple):
    """Dialogues to learn from, and prompts kept for feedback; no prompt is in both."""

    dialogues: list[Chat]
    prompts: list[Prompt]


def read_seeds(path: Path, settings: GrowthSettings) -> list[Task]:
    """The seed tasks to grow from. DataError where there are too few."""
    tasks = read_tasks(path)
    fitting = [task for task in tasks if task.is_classification or not settings.classification_only]
    if len(fitting) < settings.num_in_context:
        kind = "classification seed tasks" if settings.classification_only else "seed tasks"
        what = f"a list is begun with {settings.num_in_context} {kind}, got {len(fitting)} of {len(tasks)}"
        raise DataError(str(path), what, "add seeds")
    return fitting


def self_instruct(
    seeds: Sequence[Task],
    teacher: Teacher,
    growth: GrowthSettings,
    *,
    rounds: Path,
    instances: InstanceSettings,
    show: Callable[[int], None] = lambda _: None,
) -> Instructed:
    """Instructions grown from the seeds, with instances; `show` is told how many of both there are together.

    `rounds` is the file by which growing can go on. A teacher that brings nothing for a while ends it early.
    Classification tasks are asked about even where only they were asked for, for a teacher errs.
    """
    texts = [seed.instruction for seed in seeds]
    file = RoundsFile(rounds, texts, growth, teacher.name)
    done = file.read()
    pool = InstructionPool(texts, growth)
    show(sum(len(one.kept) for one in done))
    for one in pool.grow(teacher, list(done)):
        file.append(one)
        done.append(one)
        show(len(pool.machine))
    counts = sum((one.counts for one in done), Counter[str]())
    new = [instruction for one in done for instruction in one.kept][: growth.num_instructions]
    tasks = classify([instruction.instruction for instruction in new], teacher, instances, counts)
    made: list[Task] = []
    for task in write_instances(tasks, teacher, instances, counts):
        made.append(task)
        show(len(new) + len(made))
    return Instructed(new, made, counts)


def divide(dialogues: Sequence[Chat], *, feedback_share: float, seed: int) -> Divided:
    """The dialogues without a share whose prompts alone are kept; equal prompts fall on the same side."""
    # A seed of its own: later splits by the run's seed would find one of their sides empty.
    own_seed = seed_for(seed, "feedback prompts")
    kept: list[Chat] = []
    prompts: dict[Messages, Prompt] = {}
    for chat in dialogues:
        asked = chat.messages[:-1]
        if held_out(asked, feedback_share, own_seed):
            prompts.setdefault(asked, Prompt(chat.name, asked, chat.source))
        else:
            kept.append(chat)
    return Divided(kept, list(prompts.values()))
