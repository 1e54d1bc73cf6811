"""`zephyr binarize`: rated answers made into training rows."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zephyr.cli.options import AsJson, BadRowsOption, Columns, Force, Ignore, OutFile, RowFormat, Seed, Where
from zephyr.cli.tables import print_accounts
from zephyr.cli.terminal import Offline, quiet_libraries

Chosen = Annotated[
    str, typer.Option(metavar="SCORE", help="Score that ranks the answers: overall, an aspect, or mean, that of all.")
]
Rejected = Annotated[
    Literal["random", "worst", "next"],
    typer.Option(help="Which lower-rated answer is rejected; Zephyr: random."),
]
Repair = Annotated[
    bool, typer.Option(help="Apply the published fix of overall_score to rows in UltraFeedback's own format.")
]


def binarize_command(  # noqa: PLR0913 - typer makes an option of every parameter
    file: Annotated[str, typer.Argument(help="Rated answers: a file, a folder, a glob or a hub id.")],
    *,
    out: OutFile,
    output: Annotated[Literal["pairs", "listwise", "kto"], typer.Option(help="Kind of row.")] = "pairs",
    chosen: Chosen = "overall",
    rejected: Rejected = "random",
    min_gap: Annotated[float, typer.Option(min=0, help="Minimum difference of the two scores.")] = 0.0,
    ties: Annotated[Literal["drop", "keep"], typer.Option(help="What to do with pairs of equal score.")] = "drop",
    max_pairs: Annotated[int, typer.Option(min=1, help="Maximum pairs per prompt.")] = 1,
    kto_threshold: Annotated[float, typer.Option(help="kto: answers with at least this score are desirable.")] = 5.0,
    repair: Repair = True,
    seed: Seed = 0,
    shape: RowFormat = "auto",
    columns: Columns = None,
    where: Where = None,
    ignore: Ignore = None,
    bad_rows: BadRowsOption = "stop",
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Make pairs (or ranked lists, or labelled answers) from ratings, in the columns of ultrafeedback_binarized.

    \f
    Raises DataError if the rules leave no row.
    """
    quiet_libraries(offline=offline)
    from zephyr.cli.files import check_output, source_of
    from zephyr.data.read.sources import open_source
    from zephyr.errors import DataError
    from zephyr.feedback.binarize import binarize, repair_where_published
    from zephyr.feedback.opened_rows import column_accounts
    from zephyr.recipe.feedback_section import BinarizeSection
    from zephyr.records.fields import printable
    from zephyr.records.writing import write_jsonl

    check_output(out, force=force, read=file)
    source = source_of(file, shape=shape, columns=columns, where=where, ignore=ignore, bad_rows=bad_rows)
    records = open_source(source, "rated", data_dir=Path(), offline=offline)
    section = BinarizeSection(
        output=output,
        chosen=chosen,
        rejected=rejected,
        min_gap=min_gap,
        ties=ties,
        max_pairs_per_prompt=max_pairs,
        kto_threshold=kto_threshold,
        repair_overall=repair,
    )
    made = binarize(records, repair_where_published(section, records.shapes.values()), seed=seed)
    if made.rows:
        write_jsonl(out, made.rows, replace=force)
    accounts = {
        "prompts": made.prompts,
        "prompts_used": made.used,
        output: len(made.rows),
        # Rows, answers and prompts that were left out, each by its reason.
        "dropped": {**records.counts, **made.left_out, **made.dropped},
        **column_accounts(records),
        "rule": made.rule,
    }
    print_accounts({"input": file, "output": str(out)}, accounts, as_json=as_json)
    if not made.rows:
        what = f"no {output} can be made of {made.prompts:,} prompts, so nothing was written"
        raise DataError(printable(file), what, "see the reasons above, and choose another rule")
