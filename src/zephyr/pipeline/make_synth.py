"""The synth stage: what a teacher writes, by whichever generator the recipe names."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from zephyr.data.read.stage_rows import open_records
from zephyr.errors import DataError
from zephyr.pipeline.endpoints import asked_together
from zephyr.pipeline.ledgers import StageLedgers
from zephyr.pipeline.ready import writer
from zephyr.progress import show_progress
from zephyr.recipe.synth_section import SelfInstructSynth, SynthSection, UltraChatSynth, WorldSynth
from zephyr.recipe.teacher_section import ScriptedSection, TeacherSection
from zephyr.records.fields import Json
from zephyr.records.rows import Record, Text
from zephyr.records.writing import write_jsonl
from zephyr.runs.stage_folder import Facts
from zephyr.stages.stage import Work
from zephyr.synth.dialogues import WritingSettings, write_dialogues
from zephyr.synth.encodings import PLAIN, VARIED, encode_tasks
from zephyr.synth.instances import InstanceSettings
from zephyr.synth.instructions import GrowthSettings
from zephyr.synth.rounds_file import instruction_fields
from zephyr.synth.self_instruct import divide, read_seeds, self_instruct
from zephyr.synth.talk_plan import PlanSettings, plan_talk
from zephyr.synth.talks import Talker, TalkSettings, shortened
from zephyr.synth.tasks import task_fields
from zephyr.teachers.protocol import Teacher, seed_for
from zephyr.world import pretrain_texts, prompts

DIALOGUES = "dialogues.jsonl"
TEXTS = "texts.jsonl"
PROMPTS = "prompts.jsonl"
INSTRUCTIONS = "instructions.jsonl"
TASKS = "tasks.jsonl"
ROUNDS = "rounds.jsonl"


def make_synth(work: Work) -> Facts:
    """The facts of the stage; its folder holds dialogues, prompts for feedback, and what else its generator makes."""
    section = work.recipe.synth
    assert section is not None
    generator = section.generator
    person_section = generator.person if isinstance(generator, UltraChatSynth) else None
    with StageLedgers(work, [section.teacher, *([person_section] if person_section else [])]) as ledgers:
        teacher = ledgers.before(writer(section.teacher, work), section.teacher)
        match generator:
            case WorldSynth():
                facts = _world(work, generator, teacher, section)
            case SelfInstructSynth():
                facts = _instructed(work, generator, teacher)
            case UltraChatSynth():
                person = ledgers.before(writer(person_section, work), person_section) if person_section else teacher
                facts = _talked(work, generator, person, teacher)
        return {"teacher": teacher.name, **facts}


def _world(work: Work, world: WorldSynth, teacher: Teacher, section: SynthSection) -> Facts:
    seed, counts = work.recipe.seed, Counter[str]()
    asked = prompts("train", seed, world.num_dialogues)
    dialogues = write_dialogues(asked, teacher, _writing(section.teacher, seed), counts)
    _write(work.folder / DIALOGUES, dialogues)
    _write(work.folder / TEXTS, pretrain_texts(seed, world.num_pretrain_texts))
    _write(work.folder / PROMPTS, prompts("feedback", seed, world.num_feedback_prompts))
    return {"texts": world.num_pretrain_texts, **counts}


def _instructed(work: Work, generator: SelfInstructSynth, teacher: Teacher) -> Facts:
    seed = work.recipe.seed
    growth = GrowthSettings(
        generator.num_instructions,
        seed=seed,
        classification_only=generator.classification_only,
        max_similarity=generator.max_similarity,
        requests_per_round=generator.requests_per_round,
    )
    seeds = read_seeds(work.recipe.data_dir / generator.seeds, growth)
    with show_progress("instructions, then tasks", 2 * generator.num_instructions) as display:
        made = self_instruct(
            seeds,
            teacher,
            growth,
            rounds=work.folder / ROUNDS,
            instances=InstanceSettings(seed=seed, max_instances=generator.max_instances),
            show=display.update,
        )
    learnt = [*(seeds if generator.include_seeds else []), *made.tasks]
    dialogues = list(encode_tasks(learnt, layouts=PLAIN if generator.layouts == "plain" else VARIED, seed=seed))
    divided = divide(dialogues, feedback_share=generator.feedback_share, seed=seed)
    _refuse_nothing(len(made.tasks), teacher, made.counts)
    _write(work.folder / INSTRUCTIONS, map(instruction_fields, made.instructions))
    _write(work.folder / TASKS, map(task_fields, made.tasks))
    _write(work.folder / DIALOGUES, divided.dialogues)
    _write(work.folder / PROMPTS, divided.prompts)
    totals = {"dialogues": len(divided.dialogues), "prompts": len(divided.prompts), "tasks": len(made.tasks)}
    return {**totals, "counts": dict(made.counts)}


def _talked(work: Work, generator: UltraChatSynth, person: Teacher, teacher: Teacher) -> Facts:
    section, seed, counts = work.recipe.synth, work.recipe.seed, Counter[str]()
    assert section is not None
    plan = PlanSettings(
        seed,
        generator.min_turns,
        generator.max_turns,
        {"world": generator.world, "writing": generator.writing, "materials": generator.materials},
    )
    settings = TalkSettings(
        answers=_writing(section.teacher, seed),
        person=WritingSettings(temperature=1.0, top_k=0, seed=seed),
        min_turns=generator.min_turns,
    )
    passages = [shortened(row.text) for source in generator.passages for row in open_records(work.recipe, source, Text)]
    talker = Talker(person, teacher, settings, passages=passages)
    plans = (plan_talk(number, plan) for number in range(1, generator.num_dialogues + 1))
    num_dialogues = _write(work.folder / DIALOGUES, talker.dialogues(plans, counts))
    _refuse_nothing(num_dialogues, teacher, counts)
    # Plans of their own: these first messages are not among those that were led on.
    others = PlanSettings(seed_for(seed, "prompts"), plan.min_turns, plan.max_turns, plan.sectors)
    unled = (plan_talk(-number, others) for number in range(1, generator.num_feedback_prompts + 1))
    asked = Counter[str]()
    num_prompts = _write(work.folder / PROMPTS, talker.prompts(unled, asked))
    return {"dialogues": num_dialogues, "prompts": num_prompts, "counts": dict(counts), "prompt_counts": dict(asked)}


def _writing(section: TeacherSection, seed: int) -> WritingSettings:
    """How the teacher answers."""
    if isinstance(section, ScriptedSection):
        return WritingSettings(seed=seed)
    sampling = section.sampling
    together = asked_together(WritingSettings.chunk_prompts, [section])
    return WritingSettings(
        sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens, seed, together
    )  # fmt: skip


def _refuse_nothing(num_made: int, teacher: Teacher, counts: Counter[str]) -> None:
    if not num_made:
        said = ", ".join(f"{count:,} x {reason}" for reason, count in counts.most_common())
        raise DataError(teacher.name, f"wrote nothing that can be used ({said})", "ask a stronger teacher")


def _write(path: Path, rows: Iterable[Mapping[str, Json] | Record]) -> int:
    path.unlink(missing_ok=True)  # of a try that was stopped
    return write_jsonl(path, rows)
