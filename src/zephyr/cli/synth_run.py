"""A run of `zephyr synth`: teachers over one ledger, a generator, and the files beside the dialogues."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from zephyr.errors import DataError, did_you_mean
from zephyr.pipeline.asked_teachers import TeacherOptions, asked_together, cap_for, open_plain, section_of
from zephyr.pipeline.calls_ahead import asked_by_synth
from zephyr.progress import show_progress
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection, UltraChatSynth, WorldSynth
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection
from zephyr.records.rows import Chat
from zephyr.records.writing import write_jsonl
from zephyr.synth.dialogues import WritingSettings, write_dialogues
from zephyr.synth.encodings import PLAIN, VARIED, encode_tasks
from zephyr.synth.instances import InstanceSettings
from zephyr.synth.instructions import GrowthSettings
from zephyr.synth.self_instruct import read_seeds, self_instruct
from zephyr.synth.talk_plan import SECTORS, PlanSettings, Sector, plan_talk
from zephyr.synth.talks import Talker, TalkSettings
from zephyr.synth.tasks import Task, task_fields
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.protocol import Teacher
from zephyr.world import prompts

Accounts = dict[str, object]


@dataclass(frozen=True)
class Growing:
    """What belongs to self_instruct alone."""

    seeds: Path | None
    classification_only: bool
    requests_per_round: int
    layouts: Literal["varied", "plain"]


@dataclass(frozen=True)
class Talking:
    """What belongs to ultrachat, and the length of answers."""

    person: str | None
    turns: tuple[int, int]
    sectors: Mapping[Sector, float]
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class SynthRun:
    """What is written, by whom, and where calls are kept."""

    generator: Literal["self_instruct", "ultrachat", "world"]
    teacher: str
    count: int
    seed: int
    growing: Growing
    talking: Talking
    teachers: TeacherOptions
    ledger: Path
    cap_tokens: int | None


def tasks_beside(out: Path) -> Path:
    """Where the tasks behind the dialogues of `out` are written."""
    return out.with_suffix(".tasks.jsonl")


def run_synth(run: SynthRun, out: Path, *, force: bool) -> Accounts:
    """The accounts of the finished run; the dialogues are in `out`. Raises DataError where there are none."""
    _refuse_options(run)
    # Whatever can be wrong before the first call is found before a ledger is made.
    growth, seeds = _growth(run), []
    if run.growing.seeds is not None:
        seeds = read_seeds(run.growing.seeds, growth)
    named = [run.teacher, run.talking.person or run.teacher]
    opened = {one: open_plain(one, "writes", run.teachers) for one in dict.fromkeys(named)}
    counts: Counter[str] = Counter()
    with Ledger(run.ledger, cap_for(named, run.cap_tokens)) as ledger:
        asked = {one: LedgeredTeacher(each, ledger, identity=identity) for one, (each, identity) in opened.items()}
        teacher, person = (asked[one] for one in named)
        if run.generator == "self_instruct":
            rows: Iterable[Chat] = _instructed(run, seeds, growth, teacher, out, counts)
        elif run.generator == "ultrachat":
            rows = _talks(run, person, teacher, counts)
        else:
            rows = _answers_of_the_world(run, teacher, counts)
        beginning = list(islice(rows, 1))
        if not beginning:
            said = ", ".join(f"{count:,} x {reason}" for reason, count in counts.most_common())
            raise DataError(teacher.name, f"wrote nothing that can be used ({said})", "ask a stronger teacher")
        num_dialogues = write_jsonl(out, chain(beginning, rows), replace=force)
    return {"dialogues": num_dialogues, "counts": dict(counts), "ledger": str(run.ledger)}


def forecast(run: SynthRun) -> Accounts:
    """How much would be asked of whom, from a sample; nothing is asked. Raises ZephyrError."""
    _refuse_options(run)
    if run.teacher == "scripted":
        return {"the scripted teacher": "is a rule, and costs nothing"}
    answering = _answering(run.teacher, run.talking.max_new_tokens)
    section = SynthSection(generator=_generator(run), teacher=answering)
    return {
        one.who: {
            "calls": round(one.teacher.calls * one.times),
            "likely_prompt_tokens": one.spend.prompt_tokens,
            "most_answer_tokens": one.spend.completion_tokens,
            **({"most_price": round(one.spend.price, 2)} if one.spend.price else {}),
        }
        for one in asked_by_synth(section, seed=run.seed, data_dir=Path())
    }


def _answering(named: str, max_new_tokens: int) -> TeacherSection:
    """The teacher's section, with answers as long as the command allows."""
    section = section_of(named)
    if isinstance(section, ScriptedSection):
        return section
    return section.model_copy(
        update={"sampling": section.sampling.model_copy(update={"max_new_tokens": max_new_tokens})}
    )


def _generator(run: SynthRun) -> WorldSynth | SelfInstructSynth | UltraChatSynth:
    """What a recipe would have for the command's options."""
    if run.generator == "world":
        return WorldSynth(num_dialogues=run.count, num_pretrain_texts=0, num_feedback_prompts=0)
    if run.generator == "self_instruct":
        growing = run.growing
        return SelfInstructSynth(
            seeds=str(growing.seeds),
            num_instructions=run.count,
            classification_only=growing.classification_only,
            requests_per_round=growing.requests_per_round,
        )
    talking, (fewest, most) = run.talking, run.talking.turns
    return UltraChatSynth(
        num_dialogues=run.count,
        min_turns=fewest,
        max_turns=most,
        world=talking.sectors.get("world", 0),
        writing=talking.sectors.get("writing", 0),
        materials=talking.sectors.get("materials", 0),
        person=None if talking.person is None else section_of(talking.person),
    )


def parse_turns(text: str) -> tuple[int, int]:
    """Fewest and most turns, of a text such as 2-4 or 3."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most:
        raise DataError("--turns", f"two numbers from 1, the smaller first, are needed, got '{text}'", "write 2-4 or 3")
    return fewest, most


def parse_sectors(text: str) -> dict[Sector, float]:
    """The named sectors, each of the same weight."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in SECTORS]
    if unknown:
        meant = did_you_mean(unknown[0], SECTORS).removeprefix("; ")
        raise DataError("--sectors", f"there is none of that name, got '{unknown[0]}'", meant)
    return {sector: 1.0 for sector in SECTORS if sector in names}


def _refuse_options(run: SynthRun) -> None:
    grows = run.generator == "self_instruct"
    if grows and run.growing.seeds is None:
        raise DataError("--seeds", "self_instruct grows from seed tasks, and none were given", "give --seeds FILE")
    if not grows and run.growing.seeds is not None:
        raise DataError("--seeds", f"generator {run.generator} takes no seeds", "leave it out")
    if run.talking.person is not None and run.generator != "ultrachat":
        raise DataError("--person", f"generator {run.generator} plays nobody", "leave it out")
    if run.generator != "world" and "scripted" in (run.teacher, run.talking.person):
        what = f"scripted knows the closed world alone, and generator {run.generator} asks for more"
        raise DataError("--teacher", what, "choose local:FOLDER or endpoint:MODEL@URL")


def _growth(run: SynthRun) -> GrowthSettings:
    return GrowthSettings(
        run.count,
        seed=run.seed,
        classification_only=run.growing.classification_only,
        requests_per_round=run.growing.requests_per_round,
    )


def _instructed(
    run: SynthRun, seeds: list[Task], growth: GrowthSettings, teacher: Teacher, out: Path, counts: Counter[str]
) -> Iterator[Chat]:
    """The dialogues of new tasks, which are written beside them in the shape of seeds."""
    with show_progress("instructions, then tasks", 2 * run.count) as display:
        made = self_instruct(
            seeds,
            teacher,
            growth,
            rounds=out.with_suffix(".rounds.jsonl"),
            instances=InstanceSettings(seed=run.seed),
            show=display.update,
        )
    counts.update(made.counts)
    if made.tasks:
        # Of a try that was stopped there may be one: it holds the same and more.
        write_jsonl(tasks_beside(out), map(task_fields, made.tasks), replace=True)
    yield from encode_tasks(made.tasks, layouts=PLAIN if run.growing.layouts == "plain" else VARIED, seed=run.seed)


def _talks(run: SynthRun, person: Teacher, teacher: Teacher, counts: Counter[str]) -> Iterator[Chat]:
    fewest, most = run.talking.turns
    settings = TalkSettings(
        answers=_answers(run), person=WritingSettings(temperature=1.0, top_k=0, seed=run.seed), min_turns=fewest
    )
    plan = PlanSettings(run.seed, fewest, most, run.talking.sectors)
    plans = (plan_talk(number, plan) for number in range(1, run.count + 1))
    with show_progress("talks", run.count) as display:
        talks = Talker(person, teacher, settings).dialogues(plans, counts)
        for number, talk in enumerate(talks, start=1):
            yield talk
            display.update(number)


def _answers_of_the_world(run: SynthRun, teacher: Teacher, counts: Counter[str]) -> Iterator[Chat]:
    asked = prompts("train", run.seed, run.count)
    with show_progress("dialogues", run.count) as display:
        for dialogue in write_dialogues(asked, teacher, _answers(run), counts):
            yield dialogue
            display.update(counts["asked"])


def _answers(run: SynthRun) -> WritingSettings:
    return WritingSettings(
        temperature=run.talking.temperature,
        max_tokens=run.talking.max_new_tokens,
        seed=run.seed,
        chunk_prompts=asked_together(256, [run.teacher, run.talking.person or run.teacher]),
    )
