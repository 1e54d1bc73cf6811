"""`zephyr chat`, `zephyr serve` and `zephyr ui`: talk with a model in the terminal, by OpenAI's API, in the browser."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries
from zephyr.errors import DataError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")]
Host = Annotated[str, typer.Option(help="Address to listen on; other machines need a token.")]
TokenEnv = Annotated[
    str, typer.Option(metavar="NAME", help="Environment variable with the token that clients must send.")
]
TOKEN_ENV = "ZEPHYR_SERVE_TOKEN"  # the name of a variable


def chat(
    model: Model,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0: greedy.")] = 0.7,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from the k most likely tokens; 0: from all.")] = 50,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Sample from the most likely tokens with this total probability.")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum answer length in tokens.")] = 256,
    offline: Offline = False,
) -> None:
    """Chat with a model. Ctrl-C stops an answer, /new starts a new conversation, /exit or Ctrl-D ends.

    \f
    Raises DataError for sampling options out of range.
    """
    quiet_libraries(offline=offline)
    from pydantic import ValidationError

    from zephyr.models.model_name import check_named
    from zephyr.recipe.teacher_section import SamplingSection

    try:
        sampling = SamplingSection(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_new_tokens)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]} {first['msg'].replace('Input should', 'must')}, got {first['input']}"
        raise DataError("zephyr chat", what, "change that option") from error
    check_named(model, offline=offline)
    import torch

    from zephyr.deliver.chat import Conversation, talk
    from zephyr.models.loading import fastest_placement, load
    from zephyr.models.source import Source

    device, dtype = fastest_placement()
    loaded = load(Source(model, offline=offline), dtype=dtype, device=device)

    torch.seed()  # otherwise every start would draw the same answers as the last

    def read() -> str | None:
        while True:
            try:
                return str(input("> "))
            except EOFError:
                typer.echo("")
                return None
            except KeyboardInterrupt:
                typer.echo("\n(Ctrl-D or /exit ends)")

    talk(Conversation(loaded, sampling, system), read, lambda text: print(escape_controls(text), end="", flush=True))


def serve(
    model: Model,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    token_env: TokenEnv = TOKEN_ENV,
    engine: Annotated[
        Literal["auto", "vllm", "transformers"], typer.Option(help="auto: vLLM if it is installed and there is a GPU.")
    ] = "auto",
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 1 << 20,
    offline: Offline = False,
) -> None:
    """Serve a model by OpenAI's API: /v1/chat/completions and /v1/completions, with streaming, and /v1/models."""
    quiet_libraries(offline=offline)
    from zephyr.models.model_name import check_named

    check_named(model, offline=offline)
    from zephyr.deliver.serving.address import ServeSettings
    from zephyr.deliver.serving.server import run_server

    token = os.environ.get(token_env)
    settings = ServeSettings(model, host, port, token, engine, offline, max_body_bytes)
    run_server(settings, lambda line: typer.echo(escape_controls(line)))


def ui(
    models: Annotated[list[str], typer.Argument(metavar="MODEL [MODEL]", help="One model, or two to compare blindly.")],
    votes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to append votes to; default: votes.jsonl.")
    ] = None,
    system: Annotated[str, typer.Option(help="Initial system message.")] = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7860,
    token_env: TokenEnv = TOKEN_ENV,
    offline: Offline = False,
) -> None:
    """Chat with a model in the browser, or with two side by side: vote, and train on the votes."""
    quiet_libraries(offline=offline)
    from zephyr.models.model_name import check_named

    for model in models:
        check_named(model, offline=offline)
    from zephyr.deliver.serving.address import ServeSettings
    from zephyr.deliver.ui.start import show_page

    token = os.environ.get(token_env)
    served = [ServeSettings(model, host, port, token, offline=offline) for model in models]
    show_page(served, votes=votes, system=system, say=lambda line: typer.echo(escape_controls(line)))
