"""`zephyr synth`: dialogues that a teacher writes, without a recipe."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zephyr.cli.options import (
    TEACHER_FORMS,
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

Generator = Annotated[
    Literal["self_instruct", "ultrachat", "world"],
    typer.Option(help="What is written: tasks grown from seeds, talks of several turns, or the closed world."),
]
Teacher = Annotated[str, typer.Option(metavar="TEACHER", help=f"Who answers: {TEACHER_FORMS}")]
Seeds = Annotated[
    Path | None, typer.Option(metavar="FILE", help="self_instruct: seed tasks to grow from, as JSON lines.")
]
ClassificationOnly = Annotated[
    bool, typer.Option("--classification-only", help="self_instruct: grow classification tasks alone.")
]
RequestsPerRound = Annotated[
    int, typer.Option(min=1, help="self_instruct: lists asked for before the pool takes what is new.")
]
Layouts = Annotated[
    Literal["varied", "plain"], typer.Option(help="self_instruct: how instruction and input become a prompt.")
]
Person = Annotated[
    str | None, typer.Option(metavar="TEACHER", help="ultrachat: who plays the person; else who answers.")
]
Turns = Annotated[str, typer.Option(metavar="MIN-MAX", help="ultrachat: messages of the person.")]
Sectors = Annotated[str, typer.Option(help="ultrachat: what the talks are about, each as likely as the others.")]


def synth(  # noqa: PLR0913 - typer makes an option of every parameter
    *,
    generator: Generator,
    teacher: Teacher,
    out: OutFile,
    count: Annotated[int, typer.Option(min=1, help="New instructions, talks begun, or dialogues.")] = 100,
    seeds: Seeds = None,
    classification_only: ClassificationOnly = False,
    requests_per_round: RequestsPerRound = 5,
    layouts: Layouts = "varied",
    person: Person = None,
    turns: Turns = "2-4",
    sectors: Sectors = "world,writing,materials",
    temperature: Annotated[float, typer.Option(min=0, help="Of answers; Self-Instruct has its own.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens; as above.")] = 512,
    seed: Seed = 0,
    ledger: LedgerFile = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much is to be asked, and ask nothing.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Let a teacher write dialogues to learn from. The same command after a stop goes on and asks nothing twice."""
    quiet_libraries(offline=offline)
    from zephyr.cli.files import check_output
    from zephyr.cli.synth_run import (
        Growing,
        SynthRun,
        Talking,
        forecast,
        parse_sectors,
        parse_turns,
        run_synth,
        tasks_beside,
    )
    from zephyr.pipeline.asked_teachers import TeacherOptions

    check_output(out, force=force, read=str(seeds or ""))
    # That file goes with the rounds beside it, so it may be written again, but never over the seeds.
    check_output(tasks_beside(out), force=True, read=str(seeds or ""))
    run = SynthRun(
        generator=generator,
        teacher=teacher,
        count=count,
        seed=seed,
        growing=Growing(seeds, classification_only, requests_per_round, layouts),
        talking=Talking(person, parse_turns(turns), parse_sectors(sectors), temperature, max_new_tokens),
        teachers=TeacherOptions(api_key_env, concurrency, offline, seed),
        ledger=ledger or out.with_suffix(".ledger.sqlite"),
        cap_tokens=cap_tokens,
    )
    with can_go_on():
        accounts = forecast(run) if dry_run else run_synth(run, out, force=force)
    written = "nothing (dry run)" if dry_run else str(out)
    print_accounts({"generator": generator, "output": written}, accounts, as_json=as_json)
