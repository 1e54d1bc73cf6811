"""What the commands of judged benchmarks share: options with their help, and how a result is printed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.options import TEACHER_HELP
from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import escape_controls
from zephyr.errors import DataError

if TYPE_CHECKING:
    from zephyr.evaluation.results import Result
    from zephyr.records.fields import Json

MODEL_FORMS = "A model folder or hub id, endpoint:MODEL@URL, scripted, or answers:FILE for existing answers."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_FORMS)]
JudgeName = Annotated[str, typer.Option("--judge", metavar="JUDGE", help=f"The judge: {TEACHER_HELP}")]
BenchData = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the benchmark's files, as published; default: fetch them."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N questions.")]
LongestAnswer = Annotated[int, typer.Option(min=1, help="Maximum answer length in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, help="Sampling temperature; MT-Bench sets its own per category.")]
PrintJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def print_result(result: "Result", out: Path, *, as_json: bool = False) -> None:
    """Print the scores as a table with their intervals, or the result as JSON. Raises DataError where there is none."""
    if as_json:
        fields: dict[str, Json] = {name: value for name, value in result._asdict().items() if name != "items"}
        typer.echo(json.dumps({**fields, "output": str(out)}))
    else:
        print_scores(result, out)
    check_scored(result, out)


def check_scored(result: "Result", out: Path) -> None:
    """Check that something was scored. Raises DataError with the causes where nothing was."""
    if result.items and all(item.value is None for item in result.items):
        causes = result.scores.get("missing_causes")
        why = ", ".join(f"{count} x {cause}" for cause, count in causes.items()) if isinstance(causes, dict) else ""
        remedy = "its judgments.jsonl has the reason of each; fix that, and run again to continue"
        raise DataError(str(out), f"nothing could be scored ({why})", remedy)


def print_scores(result: "Result", out: Path) -> None:
    """Print the scores as a table, and what is to be said of them."""
    typer.echo(escape_controls(f"{result.benchmark} of {result.model}, judged by {result.protocol['judge']}"))
    scores = {name: score for name, score in result.scores.items() if isinstance(score, dict) and "label" in score}
    print_rows([{"score of": name, **score} for name, score in scores.items()])
    consistency = result.scores.get("swap_consistency")
    if isinstance(consistency, float):
        typer.echo(f"the two orders agree in {consistency:.1f} % of the pairs")
    _print_missing(result.scores)
    if any(score["label"] == "incomplete" for score in scores.values()):
        typer.echo("incomplete: more than 2 % of the judgments are missing; do not publish these as scores")
    typer.echo(f"-> {out}")


def _print_missing(scores: Mapping[str, "Json"]) -> None:
    """Print why judgments are missing, and how many answers were judged though they are empty."""
    causes, num_empty = scores.get("missing_causes"), scores.get("empty_answers")
    if isinstance(causes, dict) and causes:
        counts = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        typer.echo(escape_controls(f"missing: {counts}; each with its reason in judgments.jsonl"))
    if num_empty:
        typer.echo(f"{num_empty} answers are empty, and are judged as they are")
    notes = scores.get("notes")
    for note in notes if isinstance(notes, list) else []:
        typer.echo(escape_controls(str(note)))
