"""`zephyr data`: the files of judged benchmarks, fetched beforehand."""

from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.terminal import escape_controls, quiet_libraries

data_group = typer.Typer(name="data", no_args_is_help=True, help="Fetch the files of judged benchmarks.")


@data_group.callback()
def _data() -> None:
    """Keep the group a group while it has one command."""


@data_group.command("fetch")
def fetch_data(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="mt_bench, alpaca_eval.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Put them into DIR/NAME, for --data DIR; default: the cache."),
    ] = None,
) -> None:
    """Fetch a benchmark's files from its authors' repository, at a pinned commit and verified by their SHA-256."""
    quiet_libraries(offline=False)
    from zephyr.evaluate.judged.bench_files import BENCH_SOURCES, bench_folder, fetch_benchmark

    for name in names:
        folder = out if out is not None or name not in BENCH_SOURCES else bench_folder(name, None, offline=False)
        for path in fetch_benchmark(name, folder or Path()):
            typer.echo(escape_controls(str(path)))
        source = BENCH_SOURCES[name]
        said = f"{name}: github.com/{source.repository} at {source.commit[:12]}, {source.licence}"
        typer.echo(said, err=True)
