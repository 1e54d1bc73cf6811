"""`zephyr calls`: the calls in a call ledger, and their cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import escape_controls

if TYPE_CHECKING:
    import sqlite3

calls = typer.Typer(name="calls", no_args_is_help=True, help="Read a call ledger: requests, answers, failures, cost.")
LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="The call ledger: calls.sqlite in a run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of rows.")]


@calls.command()
def summary(ledger: LedgerPath, as_json: AsJson = False) -> None:
    """Show requests, answers, failures, tokens and price per teacher."""
    from zephyr.teachers.ledger.report import summarize

    print_rows([line._asdict() for line in summarize(_opened(ledger))], as_json=as_json)


@calls.command()
def failures(ledger: LedgerPath, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show failed tries by reason, and how many of their requests were answered later."""
    from zephyr.teachers.ledger.report import failed_tries

    print_rows([line._asdict() for line in failed_tries(_opened(ledger), limit)], as_json=as_json)


@calls.command("show")
def show_calls(
    ledger: LedgerPath,
    request: Annotated[str, typer.Argument(metavar="[HASH]", help="Hash of a request, or the beginning of one.")] = "",
    limit: Limit = 5,
    as_json: AsJson = False,
) -> None:
    """Show full calls: those of one request, or the newest."""
    import json
    from datetime import UTC, datetime

    from zephyr.teachers.ledger.report import find_calls

    rows = find_calls(_opened(ledger), request, limit)
    for row in rows:
        if as_json:
            typer.echo(json.dumps(row._asdict() | {"request": json.loads(row.request or "null")}))
            continue
        when = datetime.fromtimestamp(row.finished_at, UTC).isoformat(sep=" ", timespec="seconds")
        spent = f"{row.prompt_tokens} + {row.completion_tokens} tokens, price {row.price:.6g}"
        typer.echo(f"{row.request_hash}\n  {escape_controls(row.teacher)}, {when}, try {row.attempt}")
        typer.echo(escape_controls(f"  {row.finish_reason} after {row.latency_seconds:.2f} s, {spent}"))
        for message in json.loads(row.request or "{}").get("messages", []):
            typer.echo(escape_controls(f"  {message[0]}: {message[1]}"))
        typer.echo(f"  {'error' if row.error else 'answer'}: {escape_controls(row.error or row.response)}")
    if not rows:
        typer.echo("no such call", err=True)


def _opened(ledger: Path) -> "sqlite3.Connection":
    from zephyr.teachers.ledger.file import open_file

    return open_file(ledger, read_only=True)
