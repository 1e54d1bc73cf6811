"""`zephyr synth`: training dialogues from a teacher, without a recipe."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zephyr.cli.options import (
    TEACHER_HELP,
    AsJson,
    CapTokens,
    Concurrency,
    Force,
    KeyEnv,
    LedgerFile,
    OutFile,
    Seed,
)
from zephyr.cli.tables import print_accounts
from zephyr.cli.terminal import Offline, can_go_on, quiet_libraries
from zephyr.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from zephyr.recipe.synth_section import SynthSection
    from zephyr.recipe.teacher_section import SamplingSection, TeacherSection
    from zephyr.teachers.opening import TeacherContext

_SECTORS = ("world", "writing", "materials")
# Prompts in one call of the teacher: fewer than in a run, so that progress is shown often.
_CHUNK_PROMPTS = 256


_Generator = Annotated[
    Literal["self_instruct", "ultrachat", "world"],
    typer.Option(help="What to generate: tasks like the seed tasks, multi-turn dialogues, or the closed world."),
]
_Teacher = Annotated[str, typer.Option(metavar="TEACHER", help=f"The teacher: {TEACHER_HELP}")]
_Count = Annotated[int, typer.Option(min=1, help="Number of new instructions (self_instruct) or dialogues.")]
_Seeds = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="self_instruct: seed tasks, as JSON lines, in place of Zephyr's own."),
]
_ClassificationOnly = Annotated[
    bool, typer.Option("--classification-only", help="self_instruct: generate only classification tasks.")
]
_RequestsPerRound = Annotated[
    int, typer.Option(min=1, help="self_instruct: lists requested before new instructions join the pool.")
]
_Layouts = Annotated[
    Literal["varied", "plain"], typer.Option(help="self_instruct: layout of instruction and input in a prompt.")
]
_Person = Annotated[
    str | None,
    typer.Option(metavar="TEACHER", help="ultrachat: teacher that plays the user; default: --teacher."),
]
_Turns = Annotated[str, typer.Option(metavar="MIN-MAX", help="ultrachat: user messages in a dialogue.")]
_Sectors = Annotated[str, typer.Option(help="ultrachat: topics of the dialogues, all equally likely.")]
_Temperature = Annotated[
    float, typer.Option(min=0, help="Sampling temperature of answers; self_instruct uses its own.")
]
_MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum answer length in tokens; self_instruct uses its own.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Estimate calls, tokens and price without calling a teacher.")]


def synth(  # noqa: PLR0913 - typer makes an option of every parameter
    *,
    generator: _Generator,
    teacher: _Teacher,
    out: OutFile,
    count: _Count = 100,
    seeds: _Seeds = None,
    classification_only: _ClassificationOnly = False,
    requests_per_round: _RequestsPerRound = 5,
    layouts: _Layouts = "varied",
    person: _Person = None,
    turns: _Turns = "2-4",
    sectors: _Sectors = "world,writing,materials",
    temperature: _Temperature = 0.7,
    max_new_tokens: _MaxNewTokens = 512,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    dry_run: _DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Generate training dialogues with a teacher. Run again to continue after an interruption; no call is repeated."""
    quiet_libraries(offline=offline)
    from zephyr.cli.files import check_output
    from zephyr.recipe.synth_section import SynthSection
    from zephyr.recipe.teacher_section import SamplingSection
    from zephyr.teachers.opening import TeacherContext

    check_output(out, force=force, read=str(seeds or ""))
    # That file goes with the rounds beside it, so it may be written again, but never over the seeds.
    check_output(_beside(out, "tasks"), force=True, read=str(seeds or ""))
    grown = {"classification_only": classification_only, "requests_per_round": requests_per_round, "layouts": layouts}
    options: dict[str, dict[str, object]] = {
        "self_instruct": {
            "seeds": None if seeds is None else str(seeds),
            "num_instructions": count,
            "feedback_share": 0.0,
            **grown,
        },
        "ultrachat": {"num_dialogues": count, **_parse_turns(turns), **_parse_sectors(sectors)},
        "world": {"num_dialogues": count, "num_pretrain_texts": 0, "num_feedback_prompts": 0},
    }
    _refuse_options(generator, teacher, seeds=seeds, person=person)
    sampling = SamplingSection(temperature=temperature, max_new_tokens=max_new_tokens)
    opened = _teachers([teacher, person or teacher], sampling, api_key_env=api_key_env, concurrency=concurrency)
    options["ultrachat"]["person"] = opened[1] if person is not None else None
    fields = {"generator": {"name": generator, **options[generator]}, "teacher": opened[0]}
    section, context = SynthSection.model_validate(fields), TeacherContext(seed, offline)
    with can_go_on():
        if dry_run:
            accounts = _estimate(section, seed)
        else:
            place = ledger or out.with_suffix(".ledger.sqlite")
            accounts = _write(section, sampling, context, out=out, ledger=place, cap_tokens=cap_tokens, force=force)
    files = {"generator": generator, "output": "nothing (dry run)" if dry_run else str(out)}
    print_accounts(files, accounts, as_json=as_json)


def _write(
    section: "SynthSection",
    sampling: "SamplingSection",
    context: "TeacherContext",
    *,
    out: Path,
    ledger: Path,
    cap_tokens: int | None,
    force: bool,
) -> dict[str, object]:
    """Write the dialogues to `out`, and the tasks behind them beside it. Raises DataError where there are none."""
    from zephyr.recipe.synth_section import ConstraintsSynth, teachers_of
    from zephyr.records.writing import write_jsonl
    from zephyr.stages.synth import DIALOGUES, TASKS, seeds_of, synthesize
    from zephyr.synth.dialogues import Writers
    from zephyr.teachers.ledger.ledger import Ledger
    from zephyr.teachers.ledger.prices import cap_of
    from zephyr.teachers.opening import open_teacher, prompts_together

    assert not isinstance(section.generator, ConstraintsSynth)
    # Whatever can be wrong before the first call is found before a ledger is made.
    seeds = seeds_of(section, Path())
    sections = list(teachers_of(section).values())
    teacher = open_teacher(sections[0], "writes", context, where="--teacher")
    person = teacher if sections[-1] == sections[0] else open_teacher(sections[-1], "writes", context, where="--person")
    with Ledger(ledger, cap_of(sections, cap_tokens)) as opened:
        writers = Writers(
            teacher.with_ledger(opened),
            sampling,
            person.with_ledger(opened),
            prompts_together(_CHUNK_PROMPTS, sections),
        )
        made = synthesize(section.generator, writers, seed=context.seed, rounds=_beside(out, "rounds"), seeds=seeds)
        if TASKS in made.files:
            # Of a try that was stopped there may be one: it holds the same and more.
            write_jsonl(_beside(out, "tasks"), made.files[TASKS], replace=True)
        num_dialogues = write_jsonl(out, made.files[DIALOGUES], replace=force)
    return {"dialogues": num_dialogues, "counts": dict(made.counts), "ledger": str(ledger)}


def _estimate(section: "SynthSection", seed: int) -> dict[str, object]:
    """The calls, tokens and price of each teacher, from a sample; no teacher is called. Raises ZephyrError."""
    from zephyr.recipe.teacher_section import ScriptedSection
    from zephyr.stages.synth import estimate_calls

    if isinstance(section.teacher, ScriptedSection):
        return {"the scripted teacher": "is a rule, and costs nothing"}
    return {
        one.who: {
            "calls": round(one.teacher.calls * one.times),
            "likely_prompt_tokens": one.spend.prompt_tokens,
            "most_answer_tokens": one.spend.completion_tokens,
            **({"most_price": round(one.spend.price, 2)} if one.spend.price else {}),
        }
        for one in estimate_calls(section, seed=seed, data_dir=Path())
    }


def _teachers(
    named: list[str], sampling: "SamplingSection", *, api_key_env: str, concurrency: int
) -> list["TeacherSection"]:
    """The teachers of these names, sampled as the command's options say; a rule is not sampled. Raises ZephyrError."""
    from zephyr.teachers.opening import parse_teacher

    parsed = [parse_teacher(name, api_key_env=api_key_env, concurrency=concurrency) for name in named]
    return [one if one.name == "scripted" else one.model_copy(update={"sampling": sampling}) for one in parsed]


def _beside(out: Path, what: str) -> Path:
    """Where the tasks or the rounds behind the dialogues of `out` are written."""
    return out.with_suffix(f".{what}.jsonl")


def _parse_turns(text: str) -> dict[str, int]:
    """Fewest and most turns, from a text such as 2-4 or 3. Raises DataError."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most:
        raise DataError("--turns", f"must be MIN-MAX with 1 <= MIN <= MAX, got '{text}'", "write 2-4 or 3")
    return {"min_turns": fewest, "max_turns": most}


def _parse_sectors(text: str) -> dict[str, float]:
    """A weight for every sector: the same for those that are named, 0 for the others. Raises DataError."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in _SECTORS]
    if unknown:
        meant = did_you_mean(unknown[0], _SECTORS).removeprefix("; ")
        raise DataError("--sectors", f"there is no such sector, got '{unknown[0]}'", meant)
    return {sector: float(sector in names) for sector in _SECTORS}


def _refuse_options(generator: str, teacher: str, *, seeds: Path | None, person: str | None) -> None:
    """Check that the options belong to the generator. Raises DataError."""
    grows = generator == "self_instruct"
    if not grows and seeds is not None:
        raise DataError("--seeds", f"the generator '{generator}' takes no seeds", "drop --seeds")
    if person is not None and generator != "ultrachat":
        raise DataError("--person", f"the generator '{generator}' has no simulated user", "drop --person")
    if generator != "world" and "scripted" in (teacher, person):
        what = f"the scripted teacher knows only the closed world, not '{generator}'"
        raise DataError("--teacher", what, "choose local:FOLDER or endpoint:MODEL@URL")
