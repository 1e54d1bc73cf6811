"""`zephyr export`: a model for llama.cpp and Ollama."""

from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.options import Force
from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, adapters on a base too, or a hub id.")],
    gguf: Annotated[
        str, typer.Option(metavar="FORMATS", help="f16, q8_0, q6_k, q5_k_m, q4_k_m: those wanted, with commas.")
    ] = "f16,q8_0,q4_k_m",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Instead of ./NAME-gguf.")] = None,
    name: Annotated[str | None, typer.Option(help="What the files are called; from the folder if not given.")] = None,
    dtype: Annotated[str, typer.Option(help="What transformers computes in to compare with.")] = "float32",
    force: Force = False,
    offline: Offline = False,
) -> None:
    """Write a model as GGUF files, each proven to say what the model says, with Modelfiles for Ollama."""
    quiet_libraries(offline=offline)
    from zephyr.deliver.gguf.export import ExportSettings
    from zephyr.deliver.gguf.export import export as export_files
    from zephyr.models.loading import Source

    called = name or name_of(model)
    formats = tuple(dict.fromkeys(form.strip().lower() for form in gguf.split(",") if form.strip()))
    settings = ExportSettings(
        source=Source(model, offline=offline),
        name=called,
        formats=formats,
        folder=out or Path(f"{called}-gguf"),
        force=force,
        dtype=dtype,
    )
    export_files(settings, lambda text: typer.echo(escape_controls(text)))
    typer.echo(f"-> {settings.folder}", err=True)


def name_of(model: str) -> str:
    """What a model is called: its folder's name, that of the run for a run's model, or the last part of a hub id."""
    from zephyr.runs.reader import model_name

    return model_name(Path(model)) if Path(model).is_dir() else model.rpartition("/")[2]
