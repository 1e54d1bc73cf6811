"""`zephyr eval`: a model's scores on benchmarks, with their intervals and everything they depend on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zephyr.cli.options import TEACHER_HELP, CapTokens, Concurrency, KeyEnv
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries
from zephyr.errors import DataError

if TYPE_CHECKING:
    from zephyr.evaluation.benchmarks import BenchmarkResults

ChatTemplate = Annotated[
    Literal["auto", "on", "off"], typer.Option(help="Use the model's chat template; auto: only for ifeval.")
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum tokens of an answer, for models with a short context; default: as published."),
]
Names = Annotated[
    str,
    typer.Option(
        help="Comma-separated: tasks of lm-eval, mt_bench, alpaca_eval_1 or _2, and profiles: "
        "open-llm-leaderboard-v1, ifeval, zephyr-card."
    ),
]
Data = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Local copies of the tasks' data; default: read the hub.")
]
OwnTasks = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Tasks of your own in lm-eval's YAML; their code is run.")
]
Judge = Annotated[
    str | None, typer.Option(metavar="JUDGE", help=f"The judge of mt_bench and alpaca_eval: {TEACHER_HELP}")
]


def evaluate(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")],
    *,
    tasks: Names,
    data: Data = None,
    include_path: OwnTasks = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results; run again to continue.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Few-shot examples; default: as each task defines.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N documents of each task.")] = None,
    chat_template: ChatTemplate = "auto",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    judge: Judge = None,
    max_new_tokens: MaxNewTokens = None,
    cap_tokens: CapTokens = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: per device.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens in a batch.")] = None,
    print_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    offline: Offline = False,
) -> None:
    """Evaluate a model on benchmarks: lm-eval tasks, scored on prefix trees, and benchmarks rated by a judge.

    \f
    Raises DataError if no task is named.
    """
    quiet_libraries(offline=offline)
    from zephyr.cli.judged_options import check_scored
    from zephyr.models.model_name import check_named
    from zephyr.teachers.opening import names_teacher

    if not names_teacher(model):
        check_named(model, offline=offline)
    from zephyr.evaluation.benchmarks import run_benchmarks
    from zephyr.evaluation.harness.run import HarnessRun
    from zephyr.evaluation.judged.bench import parse_bench
    from zephyr.recipe.evaluate_section import HarnessTask

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise DataError("--tasks", "names no task", "name some, separated by commas")
    folder = out or Path("evaluations") / (Path(model).name or "model")
    bench = None
    if judge is not None:
        bench = parse_bench([model], judge, folder, api_key_env=api_key_env, concurrency=concurrency)
        bench = replace(bench, offline=offline, cap_tokens=cap_tokens)
    task = HarnessTask(
        tasks=names,
        data=data,
        include_path=include_path,
        shots=shots,
        limit=limit,
        chat_template=chat_template,
        judge=None if bench is None else bench.judge,
        max_new_tokens=max_new_tokens,
    )
    with can_go_on():
        found = run_benchmarks(model, task, HarnessRun(folder, offline, system, dtype, max_tokens), bench)
    if print_json:
        typer.echo(json.dumps(found.fields(), ensure_ascii=False))
    else:
        _print(found, folder)
    for result in found.judged:
        check_scored(result, folder / result.benchmark)


def _print(found: "BenchmarkResults", folder: Path) -> None:
    """Print tables, what is left out, and the file that holds it all."""
    from zephyr.cli.judged_options import print_scores
    from zephyr.evaluation.harness.report import EVALUATION, results_table

    if found.tasks.results:
        typer.echo(escape_controls(results_table(found.tasks)))
    for result in found.judged:
        print_scores(result, folder / result.benchmark)
    for line in (*found.left_out, str(folder / EVALUATION)):
        typer.echo(escape_controls(line))
