"""`zephyr card`, `report`, `export`, `push`, `pull`: a run for readers, for llama.cpp, and on the hub and back."""

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from zephyr.cli.options import Force
from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries
from zephyr.errors import DataError, RecipeError
from zephyr.runs.layout import LOCK_FILE

if TYPE_CHECKING:
    from typer import Context

OF = "of"


class OfByDefault(TyperGroup):
    """A group in which `zephyr card RUN` is short for `zephyr card of RUN`."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:  # type: ignore[override]
        is_run = bool(args) and args[0] not in {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, [OF, *args] if is_run else args)


card = typer.Typer(
    name="card",
    cls=OfByDefault,
    no_args_is_help=True,
    help="Write the model card of a run (zephyr card RUN), or audit a published one (zephyr card audit CARD).",
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run: output_dir/name of its recipe.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to this file instead.")]
Results = Annotated[
    list[Path] | None,
    typer.Option("--results", metavar="FOLDER", help="The --out folder of an evaluation to include; repeatable."),
]


def _check_run(folder: Path) -> None:
    """Check that there is a run, before its readers are loaded. Raises DataError."""
    if not folder.is_dir():
        from zephyr.records.reading import nearest_entry

        what = "is a file" if folder.is_file() else "there is no such folder"
        remedy = f"name the folder of a run: output_dir/name of its recipe{nearest_entry(folder)}"
        raise DataError(str(folder), what, remedy)


@card.command(OF)
def of(run: RunFolder, out: Out = None, results: Results = None, force: Force = False) -> None:
    """Write the model card of a run into its model's folder, as README.md; an edited one is overwritten by --force."""
    _check_run(run)
    from zephyr.stages.hand_delivery import write_card

    typer.echo(f"-> {write_card(run, out=out, results=results or (), force=force)}", err=True)


@card.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="CARD", help="A model card in Markdown.")],
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Total train batch size, if the card does not state it or is wrong."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Derive what a card's training table implies: beta, steps per epoch, number of rows, size of the evaluation.

    \f
    Raises DataError if the card cannot be read.
    """
    from zephyr.deliver.card_audit import audit_card

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(str(file), f"cannot be read ({error})", "name a model card in Markdown") from error
    found = audit_card(text, where=str(file), batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(found._asdict(), indent=1))
        return
    print_rows([{"what": name.replace("_", " "), "value": value} for name, value in found._asdict().items()])
    if found.batch_is_assumed:
        typer.echo(
            f"the card does not state its batch size: {found.total_train_batch_size} is assumed, "
            "--batch-size sets another"
        )


def report(
    run: RunFolder,
    out: Out = None,
    results: Results = None,
    published: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare the results with this model's published scores.")
    ] = None,
    force: Force = False,
) -> None:
    """Write the report of a run as one HTML page, report.html; an edited one is overwritten by --force."""
    _check_run(run)
    from zephyr.stages.hand_delivery import write_report

    place = write_report(run, out=out, results=results or (), published=published, force=force)
    typer.echo(f"-> {place}", err=True)


def export(  # noqa: PLR0913 - typer makes an option of every parameter
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a folder of LoRA adapters, or a hub id.")
    ],
    *,
    gguf: Annotated[
        str, typer.Option(metavar="FORMATS", help="Comma-separated: f16, q8_0, q6_k, q5_k_m, q4_k_m.")
    ] = "f16,q8_0,q4_k_m",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Output folder; default: ./NAME-gguf.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the files; default: from the model.")] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the transformers model to compare with.")] = "float32",
    extra_buffers: Annotated[
        bool,
        typer.Option("--extra-buffers/--no-extra-buffers", help="Let llama.cpp use its extra weight buffers."),
    ] = True,
    force: Force = False,
    offline: Offline = False,
) -> None:
    """Write a model as GGUF files, each verified against the model, with Modelfiles for Ollama."""
    quiet_libraries(offline=offline)
    from zephyr.models.model_name import check_named

    if not Path(model).is_dir():  # a folder may hold adapters too
        check_named(model, offline=offline)
    from zephyr.deliver.gguf.export import ExportSettings, export_gguf
    from zephyr.models.source import Source
    from zephyr.runs.reader import model_name

    called = name or (model_name(Path(model)) if Path(model).is_dir() else model.rpartition("/")[2])
    settings = ExportSettings(
        source=Source(model, offline=offline),
        name=called,
        formats=tuple(dict.fromkeys(form.strip().lower() for form in gguf.split(",") if form.strip())),
        folder=out or Path(f"{called}-gguf"),
        force=force,
        dtype=dtype,
        extra_buffers=extra_buffers,
    )
    export_gguf(settings, lambda text: typer.echo(escape_controls(text)))
    typer.echo(f"-> {settings.folder}", err=True)


def push(  # noqa: PLR0913 - typer makes an option of every parameter
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run, a model, an adapter, a stage with rows, or a file of rows.")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the hub, OWNER/NAME; made if need be.")],
    *,
    data: Annotated[
        str | None, typer.Option(metavar="REPO", help="Publish the rows of a run too, as Parquet, in this repository.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make new repositories private, and refuse public ones.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(metavar="REPO", help="Hub id of an adapter's base model, instead of its folder.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Leave this file out; repeatable.")] = None,
    resumable: Annotated[
        bool,
        typer.Option("--resumable", help="Send all it takes to continue the run elsewhere, to a private repository."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes, and send nothing.")] = False,
) -> None:
    """Publish a finished run, a model, an adapter or rows on the Hugging Face hub; the same command continues.

    Files with a key or a path of this machine are refused. The token is that of `hf auth login` or HF_TOKEN.

    \f
    Raises DataError for a path that is not there.
    """
    quiet_libraries(offline=False)
    if not path.exists():
        from zephyr.records.reading import nearest_entry

        remedy = f"name a run, a model folder or a file of rows{nearest_entry(path)}"
        raise DataError(str(path), "there is no such file or folder", remedy)
    if resumable and (base or data or exclude):
        raise RecipeError("--resumable", "sends the whole run", "leave out --base, --data and --exclude")
    if resumable and not (path / LOCK_FILE).is_file():
        remedy = "name output_dir/name of its recipe; copy rounds and sweeps with rsync -a"
        raise DataError(str(path), f"has no {LOCK_FILE}, so it is no single run", remedy)
    from zephyr.deliver.push import Target, check_target, listing, push_files
    from zephyr.deliver.push_files import data_of, files_of
    from zephyr.deliver.run_state import state_of
    from zephyr.runs.lock import hold_lock

    with ExitStack() as held:
        work = held.enter_context(tempfile.TemporaryDirectory(prefix="zephyr-rows-"))
        if resumable:
            held.enter_context(hold_lock(path))
            parts = [(state_of(path, Path(work)), Target(repo, private=True))]
        else:
            parts = [(files_of(path, Path(work), base=base, exclude=exclude or ()), Target(repo, private))]
        if data is not None:
            parts.append((data_of(path, Path(work)), Target(data, private)))
        for files, target in parts:
            for line in listing(files, target):
                typer.echo(escape_controls(line))
        if dry_run:
            return
        for _, target in parts:
            check_target(target, offline=False)
        with can_go_on("run the same command again: what is there is not sent again"):
            for files, target in parts:
                pushed = push_files(files, target, f"Upload {path.resolve().name}")
                typer.echo(f"-> {escape_controls(pushed.url)}", err=True)


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME: the repository of zephyr push --resumable.")],
    output_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder in which the run's folder is made.")
    ] = Path("runs"),
) -> None:
    """Get a run that was pushed with --resumable, to continue it here; the same command goes on after Ctrl-C."""
    quiet_libraries(offline=False)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for all files
    from zephyr.deliver.push import Target, check_target

    check_target(Target(repo), offline=False)
    from zephyr.deliver.run_state import pull_run

    with can_go_on():
        pulled = pull_run(repo, output_dir)
    for stage, state in pulled.stages.items():
        typer.echo(f"{stage}: {state}")
    for source in pulled.sources:
        typer.echo(f"reads {escape_controls(source)}, which is not on the hub: have it below data_dir")
    typer.echo(f"-> {escape_controls(str(pulled.folder))}", err=True)
    typer.echo(f"continue with: zephyr run {escape_controls(str(pulled.folder / LOCK_FILE))}", err=True)
