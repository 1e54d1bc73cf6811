"""What the judged benchmarks print: scores with their doubt, as a table or as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path

import typer

from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import escape_controls
from zephyr.evaluate.results import Result
from zephyr.records.fields import Json


def print_result(result: Result, out: Path, *, as_json: bool = False) -> None:
    """Nothing; prints the scores as a table with their doubt, or the result as JSON."""
    if as_json:
        told: dict[str, Json] = {name: value for name, value in result._asdict().items() if name != "items"}
        typer.echo(json.dumps({**told, "output": str(out)}))
        return
    typer.echo(escape_controls(f"{result.benchmark} of {result.model}, judged by {result.protocol['judge']}"))
    rows = _rows(result)
    print_rows(rows)
    consistency = result.scores.get("swap_consistency")
    if isinstance(consistency, float):
        typer.echo(f"the two orders agree in {consistency:.1f} % of the pairs")
    _print_missing(result.scores)
    if any(row["label"] == "incomplete" for row in rows):
        typer.echo("incomplete: more than 2 % of the judgments are missing; do not publish these as scores")
    typer.echo(f"-> {out}")


def _print_missing(scores: Mapping[str, Json]) -> None:
    """Nothing; prints why judgments are missing, and how many answers were judged though they are empty."""
    causes, num_empty = scores.get("missing_causes"), scores.get("empty_answers")
    if isinstance(causes, dict) and causes:
        told = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        typer.echo(escape_controls(f"missing: {told}; each with its reason in judgments.jsonl"))
    if num_empty:
        typer.echo(f"{num_empty} answers are empty, and are judged as they are")


def _rows(result: Result) -> list[dict[str, Json]]:
    """The scores that have a doubt, by name."""
    scores = {name: told for name, told in result.scores.items() if isinstance(told, dict) and "label" in told}
    return [{"score of": name, **told} for name, told in scores.items()]
