"""`zephyr serve`: a model for OpenAI's clients."""

import os
from typing import Annotated, Literal

import typer

from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")],
    host: Annotated[str, typer.Option(help="Another address than this machine's own wants a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable of the token that clients must send.")
    ] = "ZEPHYR_SERVE_TOKEN",
    engine: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="auto: vLLM where it is and a GPU is.")
    ] = "auto",
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Larger requests are refused.")] = 1 << 20,
    offline: Offline = False,
) -> None:
    """Serve a model as OpenAI's clients know it: /v1/chat/completions, streaming too, and /v1/models."""
    quiet_libraries(offline=offline)
    from zephyr.deliver.serving import ServeSettings, check_access
    from zephyr.deliver.serving import serve as serve_until_stopped

    settings = ServeSettings(model, host, port, os.environ.get(token_env), engine, offline, max_body_bytes)
    check_access(settings)
    import torch

    from zephyr.models.loading import Source, check_source

    check_source(Source(model, offline=offline))
    serve_until_stopped(settings, has_gpu=torch.cuda.is_available(), say=lambda line: typer.echo(escape_controls(line)))
