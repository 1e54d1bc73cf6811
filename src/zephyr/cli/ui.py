"""`zephyr ui`: a chat page in the browser, and blind votes between two models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries


def ui(
    models: Annotated[list[str], typer.Argument(metavar="MODEL [MODEL]", help="One model, or two to compare blindly.")],
    votes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where votes on two models are added. [default: votes.jsonl]")
    ] = None,
    system: Annotated[str, typer.Option(help="System message at first.")] = "",
    host: Annotated[str, typer.Option(help="Another address than this machine's own wants a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    token_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable of the token that visitors must give.")
    ] = "ZEPHYR_SERVE_TOKEN",
    offline: Offline = False,
) -> None:
    """Chat with a model in the browser, or with two side by side: vote, and train on the votes."""
    quiet_libraries(offline=offline)
    from zephyr.deliver.ui.start import UiSettings, show

    settings = UiSettings(tuple(models), votes, system, host, port, os.environ.get(token_env), offline)
    show(settings, lambda line: typer.echo(escape_controls(line)))
