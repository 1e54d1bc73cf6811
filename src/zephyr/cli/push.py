"""`zephyr push`: a run, a model or rows on the Hugging Face hub."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.terminal import can_go_on, escape_controls, quiet_libraries
from zephyr.errors import DataError


def push(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run, a model, an adapter, a stage with rows, or a file of rows.")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the hub, OWNER/NAME; made if need be.")],
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes, and send nothing.")] = False,
) -> None:
    """Publish a finished run, a model, an adapter or rows on the Hugging Face hub; the same command continues.

    Files with a key or a path of this machine are refused. The token is that of `hf auth login` or HF_TOKEN.
    """
    quiet_libraries(offline=False)
    if not path.exists():
        raise DataError(str(path), "there is no such file or folder", "name a run, a model folder or a file of rows")
    from zephyr.deliver.push import Target, check_target, listing, push_files
    from zephyr.deliver.push_files import data_of, files_of

    with tempfile.TemporaryDirectory(prefix="zephyr-rows-") as work:
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
