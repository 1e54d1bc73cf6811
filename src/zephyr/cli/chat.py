"""`zephyr chat`: talk with a model in the terminal."""

from typing import Annotated

import typer

from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries
from zephyr.errors import DataError


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder or a hub id.")],
    system: Annotated[str, typer.Option(help="System message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k likeliest tokens; 0: from all.")] = 50,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens of this probability.")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    offline: Offline = False,
) -> None:
    """Talk with a model. Ctrl-C stops an answer, /new forgets what was said, /exit or Ctrl-D ends."""
    quiet_libraries(offline=offline)
    import torch

    from zephyr.deliver.chat import Conversation, talk
    from zephyr.models.loading import Source, load
    from zephyr.models.placement import placement
    from zephyr.models.sampling import Sampling

    try:
        sampling = Sampling(max_new_tokens, temperature, top_k or None, top_p)
    except ValueError as error:
        raise DataError("zephyr chat", str(error), "change that option") from error
    device, dtype = placement()
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
