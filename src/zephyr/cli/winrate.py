"""`zephyr winrate`: win rates of AlpacaEval annotations."""

from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.tables import print_rows


def winrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="AlpacaEval annotations: JSON or JSONL, also .gz.")],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only this model.")] = None,
    annotator: Annotated[str | None, typer.Option(metavar="NAME", help="Only this annotator's judgments.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show win rates of AlpacaEval annotations, with standard error and missing judgments."""
    from zephyr.evaluate.judged.alpaca_eval_annotations import chosen, read_annotations, win_rates

    judged = read_annotations(file)
    rates = win_rates(judged, of=chosen(judged, model=model, annotator=annotator))
    print_rows([rate._asdict() for rate in rates], as_json=as_json)
