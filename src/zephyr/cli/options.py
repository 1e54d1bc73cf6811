"""Options that several verbs take, with their help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

TEACHER_FORMS = "scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL, or FILE.yaml with a recipe's teacher section."

Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the accounts as one JSON object.")]
BadRows = Annotated[Literal["stop", "drop"], typer.Option(help="What to do with rows that cannot be read.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write, of JSON lines.")]
Seed = Annotated[int, typer.Option(help="Decides what chance decides.")]

# Of calls to teachers and judges.
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="Where calls are kept; what is answered there is not asked again."),
]
KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds an endpoint's key.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Most calls of an endpoint at once.")]
CapTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens that the ledger's calls may take in all.")]
