"""`zephyr mt-bench`: a model on MT-Bench, rated by a judge."""

from pathlib import Path
from textwrap import indent
from typing import Annotated, Literal

import typer

from zephyr.cli.judged_options import BenchData, JudgeName, Limit, LongestAnswer, Model, OutFolder, PrintJson
from zephyr.cli.options import CapTokens, Concurrency, KeyEnv, Seed
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries

Wording = Annotated[
    Literal["own", "published"],
    typer.Option(help="The judge's prompts: our own, fenced ones, or FastChat's judge_prompts.jsonl in --data."),
]


def list_wrong_references(data: Path | None) -> None:
    """Nothing; prints the reference answers that were reported wrong and ends the command, if that was asked for."""
    if data is not None:
        _print_wrong_references(data)
        raise typer.Exit


def mt_bench(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Model,
    *,
    judge: JudgeName,
    data: BenchData,
    out: OutFolder,
    wording: Wording = "own",
    wrong_references: Annotated[
        Literal["keep", "leave-out"],
        typer.Option(help="Judge with the 13 reference answers that were reported wrong, or without them."),
    ] = "keep",
    list_wrong: Annotated[
        Path | None,
        typer.Option(
            "--list-wrong-references",
            metavar="DIR",
            is_eager=True,
            callback=list_wrong_references,
            help="Print these 13 from the files in DIR, and stop.",
        ),
    ] = None,
    max_new_tokens: LongestAnswer = 1024,
    judge_max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply of the judge in tokens.")] = 2048,
    limit: Limit = None,
    seed: Seed = 0,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: PrintJson = False,
    offline: Offline = False,
) -> None:
    """Have a model answer MT-Bench and a judge rate it. Every call is kept; run again to go on where it stopped."""
    quiet_libraries(offline=offline)
    from zephyr.cli.judged_printing import print_result
    from zephyr.evaluate.judged.mt_bench import MtBenchSettings
    from zephyr.pipeline.asked_teachers import TeacherOptions
    from zephyr.pipeline.judged_run import JudgedRun
    from zephyr.pipeline.mt_bench_run import MtBenchRun, run_mt_bench

    # The eager callback above ends the command, so this option is never seen here.
    assert list_wrong is None
    teachers = TeacherOptions(api_key_env, concurrency, offline, seed)
    run = MtBenchRun(
        model=model,
        data=data,
        shared=JudgedRun(judge, out, teachers, cap_tokens, limit),
        settings=MtBenchSettings(max_new_tokens, judge_max_tokens, seed),
        published_wording=wording == "published",
        without_wrong_references=wrong_references == "leave-out",
    )
    with can_go_on():
        result, _ = run_mt_bench(run)
    print_result(result, out, as_json=as_json)


def _print_wrong_references(data: Path) -> None:
    """Nothing; prints the questions whose reference answer was reported wrong, with that answer."""
    from zephyr.evaluate.judged.mt_bench_questions import REPORTED_WRONG
    from zephyr.pipeline.mt_bench_run import MtBenchInputs

    questions = MtBenchInputs(data, limit=None, without_wrong=False).questions
    for question in questions:
        if question.number in REPORTED_WRONG:
            typer.echo(f"{question.number} ({question.category})")
            for turn, (asked, answer) in enumerate(zip(question.turns, question.references, strict=False), start=1):
                told = f"turn {turn}: {asked}\nreference: {answer}"
                typer.echo(indent(escape_controls(told), "  "))
