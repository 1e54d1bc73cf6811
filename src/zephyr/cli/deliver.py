"""`zephyr card` and `zephyr report`: what a run has recorded, for those who read about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from zephyr.cli.tables import print_rows

if TYPE_CHECKING:
    from typer import Context

    from zephyr.deliver.report import OutsideResults
    from zephyr.runs.reader import RunRecord

OF = "of"


class OfByDefault(TyperGroup):
    """A group in which `zephyr card RUN` is short for `zephyr card of RUN`."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:  # type: ignore[override]
        is_run = bool(args) and args[0] not in {*self.commands, "--help"}
        return super().parse_args(ctx, [OF, *args] if is_run else args)


card = typer.Typer(
    name="card",
    cls=OfByDefault,
    no_args_is_help=True,
    help="Write a run's model card (zephyr card RUN), or see what a published one gives away (zephyr card audit).",
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run: output_dir/name of its recipe.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where it goes instead.")]
Results = Annotated[
    list[Path] | None,
    typer.Option("--results", metavar="FOLDER", help="The --out folder of an evaluation to be told too; repeatable."),
]


@card.command(OF)
def of(run: Run, out: Out = None, results: Results = None) -> None:
    """Write the model card of a run into its model's folder, as README.md."""
    from zephyr.atomic import replace_text
    from zephyr.deliver.card import card_of, card_place
    from zephyr.runs.reader import read_run

    record = read_run(run)
    text = card_of(record, results=_outside(record, results or [], None).scores)
    place = out or card_place(record)
    replace_text(place, text)
    typer.echo(f"-> {place}", err=True)


@card.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="CARD", help="A model card in Markdown.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Total train batch size, where the card is silent or wrong.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Derive what a card's training table does not say: beta, steps of an epoch, rows, size of the evaluation."""
    from zephyr.deliver.card_audit import audit_card
    from zephyr.errors import DataError

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(str(file), f"cannot be read ({error})", "name a model card in Markdown") from error
    found = audit_card(text, where=str(file), batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(found._asdict(), indent=1))
        return
    print_rows([{"what": name.replace("_", " "), "value": value} for name, value in found._asdict().items()])
    if found.batch_is_assumed:
        typer.echo(
            f"the card does not say its batch: {found.total_train_batch_size} is assumed, --batch-size sets another"
        )


def report(
    run: Run,
    out: Out = None,
    results: Results = None,
    published: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Set the results beside this model's published scores.")
    ] = None,
) -> None:
    """Write the report of a run: one HTML page, report.html in its folder, that needs nothing else."""
    from zephyr.atomic import replace_text
    from zephyr.deliver.report import report_of
    from zephyr.errors import DataError
    from zephyr.runs.layout import REPORT
    from zephyr.runs.reader import read_run

    if published is not None and not results:
        raise DataError("--published", "needs a score to set beside it", "name an evaluation: --results FOLDER")
    record = read_run(run)
    place = out or run / REPORT
    replace_text(place, report_of(record, outside=_outside(record, results or [], published)))
    typer.echo(f"-> {place}", err=True)


def _outside(run: "RunRecord", folders: list[Path], published: str | None) -> "OutsideResults":
    """The results in the folders as the report takes them."""
    from zephyr.deliver.report import OutsideResults

    if not folders:
        return OutsideResults()  # without loading what evaluations need
    from zephyr.cli.deliver_results import outside_of

    return outside_of(run, folders, published)
