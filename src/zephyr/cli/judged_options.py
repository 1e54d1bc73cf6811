"""Options that the judged benchmarks take, with their help."""

from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.options import TEACHER_FORMS

MODEL_FORMS = "A model folder or hub id, endpoint:MODEL@URL, scripted, or answers:FILE for answers that are there."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_FORMS)]
JudgeName = Annotated[str, typer.Option("--judge", metavar="JUDGE", help=f"Who judges: {TEACHER_FORMS}")]
BenchData = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder of the benchmark's files, as its authors publish them.")
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for all that the run makes.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")]
LongestAnswer = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
PrintJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
