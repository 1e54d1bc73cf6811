"""`zephyr annotate`: answers ranked or rated by a person in the browser, and how far two annotators agree."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zephyr.cli.options import BadRowsOption, Columns, Ignore, RowFormat, Where
from zephyr.cli.serving import TOKEN_ENV, Host, TokenEnv
from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zephyr.records.rows import Rated

Other = Annotated[
    Path | None,
    typer.Option("--agreement", metavar="FILE", help="Print the agreement with these ratings or pairs, and end."),
]


def annotate(  # noqa: PLR0913 - typer makes an option of every parameter
    file: Annotated[str, typer.Argument(help="Prompts with several answers, or pairs: file, folder, glob or hub id.")],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Your ratings; a later start goes on with them.")
    ] = Path("annotations.jsonl"),
    mode: Annotated[Literal["rank", "rate"], typer.Option(help="Order the answers, or rate each one.")] = "rank",
    max_score: Annotated[int, typer.Option(min=2, max=9, help="rate: the best score; 1 is the worst.")] = 5,
    agreement: Other = None,
    shape: RowFormat = "auto",
    columns: Columns = None,
    where: Where = None,
    ignore: Ignore = None,
    bad_rows: BadRowsOption = "stop",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7861,
    token_env: TokenEnv = TOKEN_ENV,
    offline: Offline = False,
) -> None:
    """Rank or rate answers in the browser, blind and by keyboard; train on what you said.

    \f
    Raises DataError for files that cannot be annotated or do not fit together.
    """
    quiet_libraries(offline=offline)
    from zephyr.cli.files import source_of
    from zephyr.feedback.opened_rows import open_compared

    source = source_of(file, shape=shape, columns=columns, where=where, ignore=ignore, bad_rows=bad_rows)
    if agreement is None:
        _check_out(out, file)
    rows = open_compared(source, offline=offline)
    if agreement is not None:
        _print_agreement(rows, _read(agreement))
        return
    from filelock import FileLock, Timeout

    from zephyr.deliver.serving.address import ServeSettings, check_access
    from zephyr.errors import DataError, ResourceError
    from zephyr.feedback.annotation import begin

    several = [row for row in rows if len(row.answers) > 1 or mode == "rate"]
    if len(several) < len(rows):
        _say(f"left out: {len(rows) - len(several):,} x one answer, so nothing to rank")
    token = os.environ.get(token_env)
    check_access(ServeSettings("", host, port, token))
    try:
        from zephyr.deliver.ui.access import serve_until_stopped
        from zephyr.deliver.ui.annotate import AnnotationSetup, annotation_application
    except ImportError as error:
        raise ResourceError("zephyr annotate", f"needs {error.name}", 'pip install "zephyr-align[ui]"') from error
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            found = begin(several, out, _read(out) if out.exists() and out.stat().st_size else [])
            if found.num_done:
                found.rewrite()
            application = annotation_application(AnnotationSetup(found, Path(file).name, mode, max_score), token)
            _say(f"{found.num_done:,} of {len(several):,} rows are annotated")
            _say(f"ratings go to {out}, pairs to {found.pairs_path}")
            serve_until_stopped(application, host=host, port=port, say=_say)
            _say(f"{found.num_done:,} of {len(several):,} rows are annotated")
        if any(found.preferred):
            _say(f"with what {Path(file).name} says of the same answers:")
            _print_agreement(_read(out), several)
    except Timeout as error:
        raise DataError(str(out), "is being written by another zephyr annotate", "name another --out") from error


def _check_out(out: Path, read: str) -> None:
    """Check that ratings can be appended there. Raises DataError."""
    from zephyr.cli.files import check_output

    # What is there already is gone on with.
    check_output(out, force=True, read=read)


def _read(path: Path) -> "Sequence[Rated]":
    from zephyr.feedback.opened_rows import open_compared
    from zephyr.recipe.data_section import DataSource

    return open_compared(DataSource(path=str(path)), offline=True)


def _print_agreement(one: "Sequence[Rated]", other: "Sequence[Rated]") -> None:
    from zephyr.feedback.annotation import agreement_of

    found = agreement_of(one, other)
    share = found.share
    typer.echo(
        f"agreement      {share.score:.1%} (95 % interval {share.low:.1%} to {share.high:.1%}) "
        f"on {found.pairs:,} pairs of answers in {share.n:,} rows"
    )
    if found.kappa is None:
        typer.echo("Cohen's kappa  not defined: both gave the same one verdict throughout")
    elif found.kappa_low is None or found.kappa_high is None:
        typer.echo(f"Cohen's kappa  {found.kappa:.3f}")
    else:
        typer.echo(f"Cohen's kappa  {found.kappa:.3f} (95 % interval {found.kappa_low:.3f} to {found.kappa_high:.3f})")


def _say(line: str) -> None:
    typer.echo(escape_controls(line))
