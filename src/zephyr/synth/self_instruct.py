"""Self-Instruct from its seeds to tasks: instructions grow, are classified, and get instances.

Growth continues where it stopped, from a file of rounds that is only appended to. What a round requests depends on all
rounds before it, so a request that failed must not succeed on a second try: then everything after it would be requested
anew. Hence the outcome of whole rounds is kept, failures and all. The later steps send the same requests again after a
stop, so the teacher should have a ledger before it (`zephyr.teachers.ledger.cached_teacher`), which repeats none.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from zephyr.data.read.sources import held_out
from zephyr.errors import DataError
from zephyr.recipe.synth_section import SelfInstructSynth
from zephyr.records.fields import Json, printable
from zephyr.records.messages import Messages
from zephyr.records.rows import Chat, Prompt
from zephyr.synth.dialogues import PROMPTS_VERSION
from zephyr.synth.instances import classify, write_instances
from zephyr.synth.instructions import (
    IN_CONTEXT,
    MACHINE_IN_CONTEXT,
    PATIENCE_ROUNDS,
    SAMPLING,
    InstructionPool,
    Neighbour,
    NewInstruction,
    Round,
)
from zephyr.synth.tasks import InstructionTask, read_tasks
from zephyr.teachers.protocol import Teacher, seed_for

# Seed tasks of our own text, varied on purpose: no two are alike, and a seventh are classification tasks.
OWN_SEEDS = Path(__file__).with_name("seed_tasks.jsonl")
_FORMAT = 1


class GrownTasks(NamedTuple):
    """What came of the seeds: the new instructions, and those of them that got instances, as tasks."""

    instructions: list[NewInstruction]
    tasks: list[InstructionTask]
    counts: Counter[str]


class Divided(NamedTuple):
    """Dialogues to train on, and prompts kept for feedback; no prompt is in both."""

    dialogues: list[Chat]
    prompts: list[Prompt]


def read_seeds(section: SelfInstructSynth, data_dir: Path) -> list[InstructionTask]:
    """The seed tasks to grow from: those of the section's file, or else our own. Raises DataError for too few."""
    path = OWN_SEEDS if section.seeds is None else data_dir / section.seeds
    tasks = read_tasks(path)
    fitting = [task for task in tasks if task.is_classification or not section.classification_only]
    if len(fitting) < IN_CONTEXT:
        kind = "classification seed tasks" if section.classification_only else "seed tasks"
        what = f"a list is begun with {IN_CONTEXT} {kind}, got {len(fitting)} of {len(tasks)}"
        raise DataError(str(path), what, "add seeds")
    return fitting


def self_instruct(
    seeds: Sequence[InstructionTask],
    teacher: Teacher,
    section: SelfInstructSynth,
    *,
    seed: int,
    rounds: Path,
    patience_rounds: int = PATIENCE_ROUNDS,
    show: Callable[[int], None] = lambda _: None,
) -> GrownTasks:
    """Instructions grown from the seeds, with instances; `show` gets how many of both there are together.

    `rounds` is the file from which growth can continue. A teacher that brings nothing for a while ends it early.
    Classification is requested even where only classification tasks were wanted, for a teacher errs. Raises DataError
    for a file of rounds that grew from something else.
    """
    texts = [task.instruction for task in seeds]
    file = RoundsFile(rounds, texts, section, teacher.name, seed=seed)
    done = file.read()
    pool = InstructionPool(texts, section, seed=seed, patience_rounds=patience_rounds)
    show(sum(len(one.kept) for one in done))
    for one in pool.grow(teacher, list(done)):
        file.append(one)
        done.append(one)
        show(len(pool.machine))
    counts = sum((one.counts for one in done), Counter[str]())
    new = [instruction for one in done for instruction in one.kept][: section.num_instructions]
    tasks = classify([instruction.instruction for instruction in new], teacher, counts, seed=seed)
    made: list[InstructionTask] = []
    for task in write_instances(tasks, teacher, section, counts, seed=seed):
        made.append(task)
        show(len(new) + len(made))
    return GrownTasks(new, made, counts)


def sample_requests(
    instructions: Sequence[str], section: SelfInstructSynth, lists: Teacher, tasks: Teacher, *, seed: int
) -> None:
    """Send a round's requests for new instructions, and those for the tasks of these, to teachers that count them."""
    next(InstructionPool(instructions, section, seed=seed).grow(lists))
    classified = classify(instructions, tasks, Counter(), seed=seed)
    for _ in write_instances(classified, tasks, section, Counter(), seed=seed):
        pass


def divide(dialogues: Sequence[Chat], *, feedback_share: float, seed: int) -> Divided:
    """The dialogues without a share of which only the prompts are kept; equal prompts fall on the same side."""
    # A seed of its own: later splits by the run's seed would find one of their sides empty.
    own_seed = seed_for(seed, "feedback prompts")
    kept: list[Chat] = []
    prompts: dict[Messages, Prompt] = {}
    for chat in dialogues:
        prompt = chat.messages[:-1]
        if held_out(prompt, feedback_share, own_seed):
            prompts.setdefault(prompt, Prompt(chat.name, prompt, chat.source))
        else:
            kept.append(chat)
    return Divided(kept, list(prompts.values()))


class RoundsFile:
    """The file of one growing pool: a header that says what it grows from, then a row per round."""

    def __init__(
        self, path: Path, seeds: Sequence[str], section: SelfInstructSynth, teacher: str, *, seed: int
    ) -> None:
        # A pool may grow on to a higher number, or with more patience; all else decides what is requested.
        decisive = {
            "seed": seed,
            "classification_only": section.classification_only,
            "max_similarity": section.max_similarity,
            "requests_per_round": section.requests_per_round,
            "num_in_context": IN_CONTEXT,
            "num_machine_in_context": MACHINE_IN_CONTEXT,
            "temperature": SAMPLING.temperature,
            "top_p": SAMPLING.top_p,
            "max_tokens": SAMPLING.max_new_tokens,
        }
        text = json.dumps([_FORMAT, PROMPTS_VERSION, teacher, decisive, list(seeds)], sort_keys=True)
        self._path = path
        self._header = json.dumps({"format": _FORMAT, "grown_from": hashlib.sha256(text.encode()).hexdigest()})

    def read(self) -> list[Round]:
        """The complete rounds of before; a last one that was being written when its process died is cut off.

        Raises DataError for a file that grew from other seeds, with other settings or by another teacher.
        """
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(self._path, len(complete))
        lines = complete.decode().splitlines()
        if lines and lines[0] != self._header:
            what = "holds instructions that grew from other seeds, settings or another teacher"
            raise DataError(printable(str(self._path)), what, "choose another output path, or move that folder away")
        return [_round(json.loads(line)) for line in lines[1:]]

    def append(self, one: Round) -> None:
        """Write the round, which is on disk afterwards."""
        fields: dict[str, Json] = {
            "round": one.number,
            "kept": [instruction_fields(new) for new in one.kept],
            "counts": dict(one.counts),
        }
        with self._path.open("a", encoding="utf-8") as file:
            header = "" if file.tell() else f"{self._header}\n"
            file.write(f"{header}{json.dumps(fields, ensure_ascii=False)}\n")
            file.flush()
            os.fsync(file.fileno())


def instruction_fields(new: NewInstruction) -> dict[str, Json]:
    """A new instruction as the fields of its row."""
    return {
        "instruction": new.instruction,
        "most_similar": [[neighbour.instruction, neighbour.score] for neighbour in new.most_similar],
        "mean_similarity": new.mean_similarity,
    }


def _round(fields: Mapping[str, Json]) -> Round:
    match fields:
        case {"round": int(number), "kept": list(kept), "counts": dict(counts)}:
            by_reason = Counter({reason: count for reason, count in counts.items() if isinstance(count, int)})
            return Round(number, tuple(_instruction(new) for new in kept), by_reason)
    raise AssertionError(f"a round was written as {fields}")


def _instruction(fields: Json) -> NewInstruction:
    match fields:
        case {"instruction": str(text), "most_similar": list(nearest), "mean_similarity": float(mean)}:
            pairs = [(one[0], one[1]) for one in nearest if isinstance(one, list)]
            neighbours = [
                Neighbour(near, score) for near, score in pairs if isinstance(near, str) and isinstance(score, float)
            ]
            return NewInstruction(text, tuple(neighbours), mean)
    raise AssertionError(f"an instruction was written as {fields}")
