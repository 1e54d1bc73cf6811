"""The synth stage: what a teacher writes, by the generator that the recipe names. `zephyr synth` runs it on its own."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from zephyr.data.read.mixture import mix
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import Accounts, open_all, open_records
from zephyr.errors import DataError
from zephyr.progress import show_progress
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PRETRAIN, SFT, SYNTH
from zephyr.recipe.synth_section import (
    ConstraintsSynth,
    DialogueGenerator,
    Generator,
    SelfInstructSynth,
    SynthSection,
    UltraChatSynth,
    WorldSynth,
    sources_of,
    teachers_of,
)
from zephyr.recipe.teacher_section import EndpointSection, SamplingSection, ScriptedSection, TeacherSection
from zephyr.records.fields import Json
from zephyr.records.rows import Chat, Prompt, Record, Text
from zephyr.records.writing import write_jsonl
from zephyr.runs.layout import LEDGER
from zephyr.runs.stage_folder import Facts
from zephyr.stages.call_estimate import ESTIMATE_SAMPLE, TeacherEstimate, call_lines, counting
from zephyr.stages.preview import MadeRows, Preview
from zephyr.stages.stage import Stage, Work
from zephyr.synth.dialogues import PROMPTS_PER_CALL, Writers, write_dialogues
from zephyr.synth.talks import Talker, plan_talk, shorten_passage
from zephyr.teachers.opening import StageLedgers, open_teacher, prompts_together, stage_context
from zephyr.teachers.protocol import seed_for
from zephyr.teachers.scripted import ScriptedTeacher
from zephyr.world import FEEDBACK_SPLIT, TRAIN_SPLIT, pretrain_texts, prompts

if TYPE_CHECKING:  # Self-Instruct is imported where it is asked for: most recipes have another generator
    from zephyr.synth.tasks import InstructionTask

DIALOGUES = "dialogues.jsonl"
TEXTS = "texts.jsonl"
PROMPTS = "prompts.jsonl"
INSTRUCTIONS = "instructions.jsonl"
TASKS = "tasks.jsonl"
ROUNDS = "rounds.jsonl"

# Maximum rows that a check generates with the scripted teacher.
SAMPLED_ROWS = 1000
# Instructions kept from each list of a teacher; about as many as in the published Self-Instruct run.
KEPT_OF_A_LIST = 4
FileRow: TypeAlias = Mapping[str, Json] | Record
_R = TypeVar("_R")


def _section(recipe: Recipe) -> SynthSection:
    assert recipe.synth is not None
    return recipe.synth


def _outputs(recipe: Recipe) -> list[str]:
    """The names in the finished folder."""
    section = _section(recipe)
    if isinstance(section.generator, ConstraintsSynth):
        return [PROMPTS, *([DIALOGUES] if section.generator.num_dialogues else [])]
    more: dict[type[Generator], list[str]] = {WorldSynth: [TEXTS], SelfInstructSynth: [INSTRUCTIONS, TASKS, ROUNDS]}
    has_ledger = not all(isinstance(one, ScriptedSection | EndpointSection) for one in teachers_of(section).values())
    return [DIALOGUES, PROMPTS, *more.get(type(section.generator), []), *([LEDGER] if has_ledger else [])]


def _files_read(recipe: Recipe) -> Facts:
    """A hash of our own seed tasks, where instructions grow from them; of the prompts of evaluation sets to avoid."""
    generator = _section(recipe).generator
    if isinstance(generator, ConstraintsSynth) and generator.decontaminate:
        from zephyr.data.filters.benchmark_texts import read_benchmarks

        found = read_benchmarks(generator.decontaminate, recipe.data_dir).found
        return {"decontaminate": hashlib.sha256(repr(found).encode(errors="replace")).hexdigest()}
    if not isinstance(generator, SelfInstructSynth) or generator.seeds is not None:
        return {}
    from zephyr.synth.self_instruct import OWN_SEEDS

    return {"own_seeds": hashlib.sha256(OWN_SEEDS.read_bytes()).hexdigest()}


def seeds_of(section: SynthSection, data_dir: Path) -> "list[InstructionTask]":
    """The seed tasks of self_instruct, none for other generators. Raises DataError."""
    if not isinstance(section.generator, SelfInstructSynth):
        return []
    from zephyr.synth.self_instruct import read_seeds

    return read_seeds(section.generator, data_dir)


def _sampling_of(teacher: TeacherSection) -> SamplingSection:
    """How the teacher is sampled; a rule has defaults, which change nothing."""
    return SamplingSection() if isinstance(teacher, ScriptedSection) else teacher.sampling


# ---- what a generator makes: for a run, a command, and a sample ----


class Synthesis(NamedTuple):
    """The rows of a generator by file, and counts of its requests by outcome.

    Rows are made lazily, file by file in order; the counts are complete once all have been read.
    """

    files: dict[str, Iterable[FileRow]]
    counts: Counter[str]
    prompt_counts: Counter[str]


def synthesize(
    generator: DialogueGenerator,
    writers: Writers,
    *,
    seed: int,
    rounds: Path,
    seeds: "Sequence[InstructionTask]" = (),
    passages: Sequence[str] = (),
) -> Synthesis:
    """The generator's rows and counts. `rounds`: the file from which Self-Instruct continues after an interruption.

    Raises DataError, now or when the rows are read, if the teacher writes nothing usable.
    """
    if isinstance(generator, SelfInstructSynth):
        return _grow_tasks(generator, writers, seeds, seed=seed, rounds=rounds)
    made = _write(generator, writers, passages, seed=seed)
    made.files[DIALOGUES] = _watched(made.files[DIALOGUES], made.counts, writers, generator.num_dialogues)
    return made


def _grow_tasks(
    generator: SelfInstructSynth, writers: Writers, seeds: "Sequence[InstructionTask]", *, seed: int, rounds: Path
) -> Synthesis:
    from zephyr.synth.self_instruct import divide, instruction_fields, self_instruct
    from zephyr.synth.tasks import encode_tasks, task_fields

    with show_progress("instructions, then tasks", 2 * generator.num_instructions) as display:
        made = self_instruct(seeds, writers.teacher, generator, seed=seed, rounds=rounds, show=display.update)
    if not made.tasks:
        raise _nothing_written(writers, made.counts)
    tasks = [*(seeds if generator.include_seeds else []), *made.tasks]
    dialogues = list(encode_tasks(tasks, layouts=generator.layouts, seed=seed))
    divided = divide(dialogues, feedback_share=generator.feedback_share, seed=seed)
    files: dict[str, Iterable[FileRow]] = {
        INSTRUCTIONS: map(instruction_fields, made.instructions),
        TASKS: map(task_fields, made.tasks),
        DIALOGUES: divided.dialogues,
        PROMPTS: divided.prompts,
    }
    return Synthesis(files, made.counts, Counter())


def _write(
    generator: WorldSynth | UltraChatSynth, writers: Writers, passages: Sequence[str], *, seed: int
) -> Synthesis:
    """Answers to the world's prompts, or talks."""
    counts, prompt_counts = Counter[str](), Counter[str]()
    files: dict[str, Iterable[FileRow]]
    if isinstance(generator, WorldSynth):
        asked = prompts(TRAIN_SPLIT, seed, generator.num_dialogues)
        files = {
            DIALOGUES: write_dialogues(asked, writers, counts, seed=seed),
            TEXTS: pretrain_texts(seed, generator.num_pretrain_texts),
            PROMPTS: prompts(FEEDBACK_SPLIT, seed, generator.num_feedback_prompts),
        }
    else:
        talker = Talker(writers, generator, seed=seed, passages=passages)
        plans = (plan_talk(number, generator, seed=seed) for number in range(1, generator.num_dialogues + 1))
        # Plans of their own: these first messages are not among those that were continued.
        own_seed, numbers = seed_for(seed, "prompts"), range(1, generator.num_feedback_prompts + 1)
        unanswered = (plan_talk(-number, generator, seed=own_seed) for number in numbers)
        files = {DIALOGUES: talker.dialogues(plans, counts), PROMPTS: talker.prompts(unanswered, prompt_counts)}
    return Synthesis(files, counts, prompt_counts)


def _watched(rows: Iterable[_R], counts: Counter[str], writers: Writers, num_expected: int) -> Iterator[_R]:
    """The same rows, with a progress display. Raises DataError at the end if there were none."""
    num_rows = 0
    with show_progress("dialogues", num_expected) as display:
        for num_rows, row in enumerate(rows, 1):
            yield row
            display.update(num_rows)
    if not num_rows:
        raise _nothing_written(writers, counts)


def _nothing_written(writers: Writers, counts: Counter[str]) -> DataError:
    said = ", ".join(f"{count:,} x {reason}" for reason, count in counts.most_common())
    return DataError(writers.teacher.name, f"wrote nothing usable ({said})", "use a stronger teacher")


# ---- before the run ----


def _check(preview: Preview) -> Iterator[str]:
    """Lines about the data from outside and the calls to come; `preview.made` then has rows for sft and pretrain."""
    recipe, section = preview.recipe, _section(preview.recipe)
    generator = section.generator
    if isinstance(generator, ConstraintsSynth):
        yield from _check_pool(preview, generator)
        return
    sample_rows(preview)
    yield from preview.check_teachers(teachers_of(section).items())
    if isinstance(generator, UltraChatSynth) and generator.passages:
        yield from preview.open_sources(generator.passages, Text, [])
    elif not isinstance(generator, SelfInstructSynth):
        yield "reads nothing from outside"
    with preview.problems.noted():
        if isinstance(generator, SelfInstructSynth):
            seeds = seeds_of(section, recipe.data_dir)
            yield f"{generator.seeds or 'our own seeds'}: {len(seeds):,} seed tasks"
        yield from call_lines(recipe, estimate_calls(section, seed=recipe.seed, data_dir=recipe.data_dir))


def _check_pool(preview: Preview, generator: ConstraintsSynth) -> Iterator[str]:
    """Lines about the instructions that get constraints, and the evaluation sets that prompts must not overlap with."""
    parts: list[Records[Prompt]] = []
    yield from preview.open_sources(generator.pool, Prompt, parts)
    with preview.problems.noted():
        _files_read(preview.recipe)
        size, families = sum(map(len, parts)), len(generator.chosen_families)
        dialogues = f" and {generator.num_dialogues:,} dialogues" if generator.num_dialogues else ""
        yield f"composes {generator.num_prompts:,} prompts{dialogues} of {size:,} instructions and {families} families"
    if generator.num_dialogues:
        yield from preview.open_sources(generator.pool, Chat, [])


def _estimate(preview: Preview) -> Iterator[str]:
    """Lines about the calls to come. Raises DataError for seed tasks that cannot be read."""
    recipe, section = preview.recipe, _section(preview.recipe)
    if isinstance(section.generator, ConstraintsSynth):
        yield "no model is called: prompts are composed by rules"
    elif isinstance(section.teacher, ScriptedSection):
        yield "calls only the scripted teacher, which costs nothing"
    else:
        yield from call_lines(recipe, estimate_calls(section, seed=recipe.seed, data_dir=recipe.data_dir))


def _preflight(_work: Work) -> Facts:
    """No facts: as the first stage of a run, synth begins by reading what it reads from outside."""
    return {}


def sample_rows(preview: Preview) -> None:
    """Put a sample of the rows for later stages into `preview.made` where a rule writes them; a model takes time."""
    recipe, section, folder = preview.recipe, preview.recipe.synth, preview.folder / SYNTH
    if section is None or folder.exists():
        return
    generator, teacher = section.generator, section.teacher
    if not isinstance(generator, WorldSynth) or not isinstance(teacher, ScriptedSection):
        return
    fewer = {
        "num_dialogues": min(SAMPLED_ROWS, generator.num_dialogues),
        "num_pretrain_texts": min(SAMPLED_ROWS, generator.num_pretrain_texts),
        "num_feedback_prompts": 0,
    }
    scripted = ScriptedTeacher(teacher, seed=recipe.seed)
    writers = Writers(scripted, _sampling_of(teacher), scripted)
    made = _write(generator.model_copy(update=fewer), writers, (), seed=recipe.seed)
    folder.mkdir(parents=True)
    for name, rows in made.files.items():
        write_jsonl(folder / name, rows)
    made_rows = {SFT: (DIALOGUES, generator.num_dialogues), PRETRAIN: (TEXTS, generator.num_pretrain_texts)}
    for stage, (file, num_rows) in made_rows.items():
        reader = recipe.trained.get(stage)
        if reader is not None and reader.data.reads_made and num_rows:
            preview.made[stage] = MadeRows(folder / file, num_rows)


def prompts_to_come(recipe: Recipe) -> tuple[list[Prompt], int]:
    """A sample of the prompts that the stage will make for feedback, and their number; none where a model writes them.

    Those with constraints are only counted. For a recipe whose feedback reads them.
    """
    generator = recipe.synth.generator if recipe.synth is not None else None
    if isinstance(generator, ConstraintsSynth):
        return [], generator.num_prompts
    if not isinstance(generator, WorldSynth):
        return [], 0
    num_prompts = generator.num_feedback_prompts
    return list(prompts(FEEDBACK_SPLIT, recipe.seed, min(ESTIMATE_SAMPLE, num_prompts))), num_prompts


def estimate_calls(section: SynthSection, *, seed: int, data_dir: Path) -> list[TeacherEstimate]:
    """The calls of each teacher, by the generator's own requests for a sample. Raises ZephyrError."""
    generator, teacher = section.generator, section.teacher
    if isinstance(generator, ConstraintsSynth):
        return []
    if isinstance(generator, SelfInstructSynth):
        return _estimate_lists(generator, teacher, seeds_of(section, data_dir), seed)
    count = min(ESTIMATE_SAMPLE, generator.num_dialogues)
    times = generator.num_dialogues / count
    estimates, fewer = [counting(teacher, times)], {"num_dialogues": count, "num_feedback_prompts": 0}
    passages: list[str] = []
    if isinstance(generator, UltraChatSynth):
        fewer["num_feedback_prompts"] = round(generator.num_feedback_prompts / times)
        passages = ["A text of others."] if generator.passages else []
        person = counting(generator.person or teacher, times)
        estimates.append(person._replace(who=f"{person.who}, the person,"))
    writers = Writers(estimates[0].teacher, _sampling_of(teacher), estimates[-1].teacher)
    made = _write(generator.model_copy(update=fewer), writers, passages, seed=seed)
    deque(chain(made.files[DIALOGUES], made.files[PROMPTS]), maxlen=0)
    return estimates


def _estimate_lists(
    generator: SelfInstructSynth, teacher: TeacherSection, seeds: "Sequence[InstructionTask]", seed: int
) -> list[TeacherEstimate]:
    """Lists of instructions, then a class and examples for each that is kept."""
    from zephyr.synth.self_instruct import sample_requests

    instructions = [task.instruction for task in islice(seeds, ESTIMATE_SAMPLE)]
    num_lists = generator.num_instructions / KEPT_OF_A_LIST
    lists = counting(teacher, num_lists / generator.requests_per_round, fails=True)
    tasks = counting(teacher, generator.num_instructions / len(instructions))
    sample_requests(instructions, generator, lists.teacher, tasks.teacher, seed=seed)
    return [lists._replace(who=f"{lists.who} (lists of instructions)"), tasks._replace(who=f"{tasks.who} (tasks)")]


# ---- the run ----


def _run(work: Work) -> Facts:
    """Make the stage: dialogues, prompts for feedback, and the generator's other files. Returns the facts.

    Raises DataError if the teacher writes nothing usable.
    """
    recipe, section = work.recipe, _section(work.recipe)
    generator, teachers = section.generator, list(teachers_of(section).items())
    if isinstance(generator, ConstraintsSynth):
        return _compose(work, generator)
    sections = [one for _, one in teachers]
    context = stage_context(recipe, SYNTH, work.inputs)
    with StageLedgers(work.folder, work.run_folder, sections) as ledgers:
        opened = [ledgers.keep(open_teacher(one, "writes", context, where=key)) for key, one in teachers]
        writers = Writers(
            opened[0], _sampling_of(section.teacher), opened[-1], prompts_together(PROMPTS_PER_CALL, sections)
        )
        made = synthesize(
            generator,
            writers,
            seed=recipe.seed,
            rounds=work.folder / ROUNDS,
            seeds=seeds_of(section, recipe.data_dir),
            passages=_passages(recipe),
        )
        sizes = {name: write_jsonl(work.folder / name, rows, replace=True) for name, rows in made.files.items()}
    facts: Facts = {"teacher": writers.teacher.name}
    if isinstance(generator, WorldSynth):
        return facts | {"texts": sizes[TEXTS], **made.counts}
    facts |= {file.removesuffix(".jsonl"): sizes[file] for file in (DIALOGUES, PROMPTS, TASKS) if file in sizes}
    facts["counts"] = dict(made.counts)
    return facts | ({"prompt_counts": dict(made.prompt_counts)} if isinstance(generator, UltraChatSynth) else {})


def _compose(work: Work, generator: ConstraintsSynth) -> Facts:
    """Write prompts and dialogues; return their numbers, what was left out and why, and the families drawn."""
    from zephyr.synth.constraints import answer_from_pool, compose_prompts

    recipe, counts, families, answers = work.recipe, Counter[str](), Counter[str](), Counter[str]()
    pool = open_all(recipe, generator.pool, Prompt)
    mixed = mix(pool, seed=recipe.seed, shuffle=True)
    made = compose_prompts(mixed, generator, counts, families, data_dir=recipe.data_dir, seed=recipe.seed)
    prompts = islice(made, generator.num_prompts)
    facts: Facts = {"prompts": write_jsonl(work.folder / PROMPTS, prompts, replace=True), "instructions": len(mixed)}
    if generator.num_dialogues:
        chats = chain.from_iterable(open_all(recipe, generator.pool, Chat))
        dialogues = answer_from_pool(made, chats, generator.num_dialogues, answers)
        facts["dialogues"] = write_jsonl(work.folder / DIALOGUES, dialogues, replace=True)
        facts["answers_of_the_pool"] = dict(answers)
    return facts | Accounts(pool).facts() | {"filtered_out": dict(counts), "families": dict(families.most_common())}


def _passages(recipe: Recipe) -> list[str]:
    generator = _section(recipe).generator
    opened = generator.passages if isinstance(generator, UltraChatSynth) else []
    return [shorten_passage(row.text) for source in opened for row in open_records(recipe, source, Text)]


STAGE = Stage(
    name=SYNTH,
    version=1,
    reads=lambda _recipe: (),
    sources=lambda recipe: sources_of(_section(recipe).generator),
    outputs=_outputs,
    check=_check,
    estimate=_estimate,
    preflight=_preflight,
    run=_run,
    depends_on=_files_read,
)
