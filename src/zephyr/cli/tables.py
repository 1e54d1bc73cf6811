"""Values under their names, as a table for people or as JSON for programs."""

import json
from collections.abc import Mapping, Sequence

import typer

from zephyr.cli.terminal import escape_controls


def print_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool = False) -> None:
    """Print the rows under the names of the first."""
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("none")
        return
    lines = [[name.replace("_", " ") for name in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo(escape_controls("  ".join(cells).rstrip()))


def print_accounts(files: Mapping[str, str], accounts: Mapping[str, object], *, as_json: bool = False) -> None:
    """Print what was made of which file: two columns of names and values, or one JSON object."""
    if as_json:
        typer.echo(json.dumps({**files, **accounts}))
        return
    typer.echo(escape_controls(" -> ".join(files.values())))
    rows: list[tuple[str, object]] = []
    for name, value in accounts.items():
        if isinstance(value, Mapping):
            rows.append((name.replace("_", " "), "" if value else "nothing"))
            rows += [(f"  {inner}", count) for inner, count in value.items()]
        else:
            rows.append((name.replace("_", " "), value))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        typer.echo(escape_controls(f"{name:<{width}}  {shown}".rstrip()))


def _cell(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else escape_controls(str(value))
