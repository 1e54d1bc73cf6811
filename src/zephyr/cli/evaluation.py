"""`zephyr eval`: a model's scores on the field's tasks, with their intervals and everything they depend on."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zephyr.cli.options import TEACHER_FORMS, CapTokens, Concurrency, KeyEnv
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries

if TYPE_CHECKING:
    from zephyr.pipeline.benchmarks import Benchmarked

Toggle = Literal["auto", "on", "off"]
Names = Annotated[
    str,
    typer.Option(
        help="By commas: tasks of lm-eval, mt_bench, alpaca_eval_1 or _2, and profiles: "
        "open-llm-leaderboard-v1, ifeval, zephyr-card."
    ),
]
Judge = Annotated[
    str | None, typer.Option(metavar="JUDGE", help=f"Who rates mt_bench and alpaca_eval: {TEACHER_FORMS}")
]


def evaluate(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")],
    *,
    tasks: Names,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Local copies of the tasks' data; without it, the hub's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Results; an interrupted run goes on from it.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Shots of every task, instead of its own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many documents of each task: a trial.")] = None,
    chat_template: Annotated[
        Toggle, typer.Option(help="The model's own template; auto: for ifeval alone, if there is one.")
    ] = "auto",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    judge: Judge = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer of any task, for a model of short context; default: as published."),
    ] = None,
    cap_tokens: CapTokens = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 64,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: by the device.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens computed together.")] = None,
    print_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    offline: Offline = False,
) -> None:
    """Measure a model on benchmarks: lm-eval's tasks on prefix trees, and those that a judge rates."""
    quiet_libraries(offline=offline)
    # lm-eval draws a bar a task with tqdm, which reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from zephyr.evaluate.harness.run import EvalOptions
    from zephyr.pipeline.asked_teachers import TeacherOptions
    from zephyr.pipeline.benchmarks import run_benchmarks
    from zephyr.pipeline.judged_benchmarks import Judging

    folder = out or Path("evaluations") / (Path(model).name or "model")
    options = EvalOptions(
        names=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        data=data,
        out=folder,
        shots=shots,
        limit=limit,
        chat_template=chat_template,
        system=system,
        dtype=dtype,
        max_tokens=max_tokens,
        max_new_tokens=max_new_tokens,
        offline=offline,
    )
    judging = Judging(judge, TeacherOptions(api_key_env, concurrency, offline), cap_tokens)
    with can_go_on():
        found = run_benchmarks(model, options, judging)
    if print_json:
        typer.echo(json.dumps(found.fields(), ensure_ascii=False))
    else:
        _print(found, folder)


def _print(found: "Benchmarked", folder: Path) -> None:
    """Nothing; prints tables, what is left out, and the file that holds it all."""
    from zephyr.cli.judged_printing import print_result
    from zephyr.evaluate.harness.report import EVALUATION, table

    if found.tasks.results:
        typer.echo(escape_controls(table(found.tasks)))
    for result in found.judged:
        print_result(result, folder / result.benchmark)
    for line in (*found.left_out, str(folder / EVALUATION)):
        typer.echo(escape_controls(line))
