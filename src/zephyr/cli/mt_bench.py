"""`zephyr mt-bench`: a model on MT-Bench, rated by a judge; `zephyr data`: the files of judged benchmarks."""

from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Annotated, Literal

import typer

from zephyr.cli.judged_options import (
    BenchData,
    JudgeName,
    Limit,
    LongestAnswer,
    Model,
    OutFolder,
    PrintJson,
    print_result,
)
from zephyr.cli.options import CapTokens, Concurrency, KeyEnv, Seed
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries

Wording = Annotated[
    Literal["own", "published"],
    typer.Option(help="Judge prompts: Zephyr's own, or FastChat's judge_prompts.jsonl in --data."),
]


def list_wrong_references(data: Path | None) -> None:
    """Print the reference answers that were reported wrong and end the command, if a folder is named."""
    if data is not None:
        _print_wrong_references(data)
        raise typer.Exit


def mt_bench(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Model,
    *,
    judge: JudgeName,
    out: OutFolder,
    data: BenchData = None,
    wording: Wording = "own",
    wrong_references: Annotated[
        Literal["keep", "leave-out"],
        typer.Option(help="Keep or leave out the 13 reference answers that were reported wrong."),
    ] = "keep",
    list_wrong: Annotated[
        Path | None,
        typer.Option(
            "--list-wrong-references",
            metavar="DIR",
            is_eager=True,
            callback=list_wrong_references,
            help="Print these 13 reference answers from the files in DIR, and exit.",
        ),
    ] = None,
    max_new_tokens: LongestAnswer = 1024,
    judge_max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the judge's reply in tokens.")] = 2048,
    limit: Limit = None,
    seed: Seed = 0,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    cap_tokens: CapTokens = None,
    as_json: PrintJson = False,
    offline: Offline = False,
) -> None:
    """Evaluate a model on MT-Bench, rated by a judge. Every call is stored; run again to continue."""
    quiet_libraries(offline=offline)
    from zephyr.evaluation.judged.bench import parse_bench
    from zephyr.evaluation.judged.bench_files import bench_folder
    from zephyr.evaluation.judged.mt_bench import MT_BENCH, MT_BENCH_SAMPLING, run_mt_bench

    # The eager callback above ends the command, so this option is never seen here.
    assert list_wrong is None
    named = parse_bench([model], judge, out, api_key_env=api_key_env, concurrency=concurrency)
    data = bench_folder(MT_BENCH, data, offline=offline)
    bench = replace(named, data=data, limit=limit, seed=seed, offline=offline, cap_tokens=cap_tokens)
    with can_go_on():
        result = run_mt_bench(
            bench,
            sampling=MT_BENCH_SAMPLING.model_copy(update={"max_new_tokens": max_new_tokens}),
            judge_max_tokens=judge_max_tokens,
            published_wording=wording == "published",
            without_wrong_references=wrong_references == "leave-out",
        )
    print_result(result, out, as_json=as_json)


def _print_wrong_references(data: Path) -> None:
    """Print the questions whose reference answer was reported wrong, with that answer."""
    from zephyr.evaluation.judged.mt_bench_questions import REPORTED_WRONG, read_mt_bench

    for question in read_mt_bench(data).questions:
        if question.number in REPORTED_WRONG:
            typer.echo(escape_controls(f"{question.number} ({question.category})"))
            for turn, (text, answer) in enumerate(zip(question.turns, question.references, strict=False), start=1):
                typer.echo(indent(escape_controls(f"turn {turn}: {text}\nreference: {answer}"), "  "))


# ---- the files of judged benchmarks ----

data_group = typer.Typer(name="data", no_args_is_help=True, help="Fetch the files of judged benchmarks.")


@data_group.callback()
def _data() -> None:
    """Keep the group a group while it has one command."""


@data_group.command("fetch")
def fetch_data(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="mt_bench, alpaca_eval.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Put them into DIR/NAME, for --data DIR; default: the cache."),
    ] = None,
) -> None:
    """Fetch a benchmark's files from its authors' repository, at a pinned commit and verified by their SHA-256."""
    quiet_libraries(offline=False)
    from zephyr.evaluation.judged.bench_files import BENCH_SOURCES, bench_folder, fetch_benchmark

    for name in names:
        folder = out if out is not None or name not in BENCH_SOURCES else bench_folder(name, None, offline=False)
        for path in fetch_benchmark(name, folder or Path()):
            typer.echo(escape_controls(str(path)))
        source = BENCH_SOURCES[name]
        said = f"{name}: github.com/{source.repository} at {source.commit[:12]}, {source.licence}"
        typer.echo(said, err=True)
