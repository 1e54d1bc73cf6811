"""`zephyr eval`: a model's scores on the field's tasks, with their intervals and everything they depend on."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from zephyr.verbs.terminal import Offline, can_go_on, escape_controls, quiet_libraries

Toggle = Literal["auto", "on", "off"]


def evaluate(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")],
    *,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks of lm-eval and profiles, by commas: open-llm-leaderboard-v1, ifeval, zephyr-card.",
        ),
    ],
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
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: by the device.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens computed together.")] = None,
    print_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    offline: Offline = False,
) -> None:
    """Measure a model on benchmarks, with lm-eval's tasks and our prefix trees."""
    quiet_libraries(offline=offline)
    # lm-eval draws a bar a task with tqdm, which reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from zephyr.evaluate.harness.report import EVALUATION, as_json, table
    from zephyr.evaluate.harness.run import EvalOptions, run

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
        offline=offline,
    )
    with can_go_on():
        told = run(model, options)
    text = f"{table(told)}\n{folder / EVALUATION}"
    typer.echo(json.dumps(as_json(told), ensure_ascii=False) if print_json else escape_controls(text))
