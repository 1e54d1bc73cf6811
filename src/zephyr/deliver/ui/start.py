"""`zephyr ui` from its settings on: all that can be wrong is said before a model is loaded."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zephyr.deliver.chat import Speaker
from zephyr.deliver.serving import ServeSettings, bound_socket, check_access
from zephyr.deliver.ui.votes import VoteFile
from zephyr.errors import ResourceError
from zephyr.models.loading import Loaded, Source, check_source, load
from zephyr.models.placement import placement
from zephyr.models.sampling import Sampling
from zephyr.records.fields import printable


@dataclass(frozen=True)
class UiSettings:
    """The command line of `zephyr ui`, and the token of its environment."""

    models: tuple[str, ...]
    votes: Path | None
    system: str
    host: str
    port: int
    token: str | None
    offline: bool


def show(settings: UiSettings, say: Callable[[str], None]) -> None:
    """Nothing; shows the page until it is stopped."""
    if len(settings.models) > 2:
        raise ResourceError("zephyr ui", f"got {len(settings.models)} models", "name one, or two to compare")
    if len(settings.models) == 1 and settings.votes is not None:
        raise ResourceError("--votes", "there is nothing to vote on with one model", "name two, or leave it out")
    served = [ServeSettings(model, settings.host, settings.port, settings.token) for model in settings.models]
    check_access(served[0])
    for model in settings.models:
        check_source(Source(model, offline=settings.offline))
    names = _names(served)
    votes = VoteFile(settings.votes or Path("votes.jsonl")) if len(names) == 2 else None
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        from zephyr.deliver.ui.page import Parlour
        from zephyr.deliver.ui.serving import serve_page
    except ImportError as error:
        raise ResourceError("zephyr ui", f"needs {error.name}", 'pip install "zephyr-align[ui]"') from error
    bound_socket(settings.host, settings.port).close()
    speakers = [
        Speaker(_loaded(model, offline=settings.offline), name)
        for model, name in zip(settings.models, names, strict=True)
    ]
    # Otherwise every start would draw the same answers as the last.
    torch.seed()
    if votes is not None:
        say(f"votes are added to {votes.path}, ties to {votes.ties_path}")
    parlour = Parlour(speakers, Sampling(256, 0.7, 50, 0.95), settings.system, votes)
    serve_page(parlour, host=settings.host, port=settings.port, token=settings.token, say=say)


def _names(served: Sequence[ServeSettings]) -> list[str]:
    """What the models are called: as short as they can be told apart."""
    names = [one.name for one in served]
    if len(set(names)) < len(names):
        names = [one.model for one in served]
    if len(set(names)) < len(names):
        raise ResourceError("zephyr ui", f"got {printable(names[0])} twice", "name two models, or one")
    return names


def _loaded(model: str, *, offline: bool) -> Loaded:
    device, dtype = placement()
    return load(Source(model, offline=offline), dtype=dtype, device=device)
