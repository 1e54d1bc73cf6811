"""`zephyr ui`: everything is checked before a model is loaded, then the page is served."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from zephyr.deliver.chat import Speaker
from zephyr.deliver.serving.address import ServeSettings, bound_socket, check_access
from zephyr.deliver.ui.votes import VoteFile
from zephyr.errors import DataError, ResourceError
from zephyr.models.loading import Loaded, fastest_placement, load
from zephyr.models.source import Source, check_source
from zephyr.recipe.stage_sections import DELIVER, EVALUATE
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.records.fields import printable
from zephyr.runs.layout import LOCK_FILE, MODEL
from zephyr.runs.reader import at, read_run

_SHOWN_EXAMPLES = 3
_LONGEST_EXAMPLE = 90
_EXAMPLES = (
    "Explain in two sentences why the sky is blue.",
    "Write a four-line poem about the sea.",
    "Give me three tips for a good night's sleep.",
)


def show_page(served: Sequence[ServeSettings], *, votes: Path | None, system: str, say: Callable[[str], None]) -> None:
    """Show the page of one or two models at one address until stopped; `votes` of None: votes.jsonl.

    Raises ResourceError where the page cannot be shown, ModelError for what is no model, DataError for a file that
    takes no votes.
    """
    if len(served) > 2:
        raise ResourceError("zephyr ui", f"got {len(served)} models", "name one, or two to compare")
    if len(served) == 1 and votes is not None:
        raise ResourceError("--votes", "one model alone cannot be voted on", "name two, or leave it out")
    address = served[0]
    check_access(address)
    for one in served:
        check_source(Source(one.model, offline=one.offline))
    names = _names(served)
    vote_file = VoteFile(votes or Path("votes.jsonl")) if len(names) == 2 else None
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        from zephyr.deliver.ui.page import PageSetup, serve_page
    except ImportError as error:
        raise ResourceError("zephyr ui", f"needs {error.name}", 'pip install "zephyr-align[ui]"') from error
    bound_socket(address.host, address.port).close()  # before minutes of loading
    speakers = [Speaker(_loaded(one), name) for one, name in zip(served, names, strict=True)]
    # Otherwise every start would draw the same answers as the last.
    torch.seed()
    if vote_file is not None:
        say(f"votes are appended to {vote_file.path}, ties to {vote_file.ties_path}")
    setup = PageSetup(speakers, SamplingSection(), system, vote_file, example_prompts(address.model))
    serve_page(setup, host=address.host, port=address.port, token=address.token, say=say)


def example_prompts(model: str) -> list[str]:
    """Prompts to begin with: those that the model's run was measured on, or some that suit any model."""
    folder = Path(model).resolve().parent.parent
    found: list[str] = []
    if (folder / LOCK_FILE).is_file():
        with contextlib.suppress(DataError):
            stages = read_run(folder).stages
            for name in (DELIVER, EVALUATE):
                found += [str(at(one, "prompt")) for one in (stages[name].samples() if name in stages else [])]
    short = [one for one in found if len(one) <= _LONGEST_EXAMPLE and " / " not in one]
    return (short or list(_EXAMPLES))[:_SHOWN_EXAMPLES]


def model_title_of(model: str) -> str:
    """What people call a model: of a run's NAME/STAGE-HASH/model its name and stage, else its folder or hub id."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    found = folder.resolve()
    stage = found.parent.name.partition("-")[0]
    return f"{found.parent.parent.name} {stage}" if found.name == MODEL else found.name


def _names(served: Sequence[ServeSettings]) -> list[str]:
    """The shortest names that tell the models apart. Raises ResourceError for one model given twice."""
    names = [model_title_of(one.model) for one in served]
    if len(set(names)) < len(names):
        names = [one.model for one in served]
    if len(set(names)) < len(names):
        raise ResourceError("zephyr ui", f"got {printable(names[0])} twice", "name two models, or one")
    return names


def _loaded(served: ServeSettings) -> Loaded:
    device, dtype = fastest_placement()
    return load(Source(served.model, offline=served.offline), dtype=dtype, device=device)
