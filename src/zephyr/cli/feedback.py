"""`zephyr binarize`: rated answers made into rows to train on."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zephyr.cli.options import AsJson, BadRows, Force, OutFile, Seed
from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries

if TYPE_CHECKING:
    from zephyr.feedback.binarize import Binarized

Chosen = Annotated[
    Literal["overall", "mean", "instruction_following", "honesty", "truthfulness", "helpfulness"],
    typer.Option(help="The score by which the best answer is chosen."),
]
Rejected = Annotated[
    Literal["random", "worst", "next"],
    typer.Option(help="Which lower rated answer is rejected; Zephyr: random."),
]
Repair = Annotated[
    bool, typer.Option(help="The published repair of overall_score, for rows in UltraFeedback's own shape.")
]


def binarize(  # noqa: PLR0913 - typer makes an option of every parameter
    file: Annotated[str, typer.Argument(help="Rated answers: a file, a folder, a glob or a hub id.")],
    *,
    out: OutFile,
    output: Annotated[Literal["pairs", "listwise", "kto"], typer.Option(help="What a row holds.")] = "pairs",
    chosen: Chosen = "overall",
    rejected: Rejected = "random",
    min_gap: Annotated[float, typer.Option(min=0, help="Smallest difference of two scores.")] = 0.0,
    ties: Annotated[Literal["drop", "keep"], typer.Option(help="Pairs of equal score.")] = "drop",
    max_pairs: Annotated[int, typer.Option(min=1, help="Most pairs of one prompt.")] = 1,
    kto_threshold: Annotated[float, typer.Option(help="Answers rated at least this are desirable.")] = 5.0,
    repair: Repair = True,
    seed: Seed = 0,
    shape: Annotated[str, typer.Option(help="Shape of the rows, if it is not plain.")] = "auto",
    bad_rows: BadRows = "stop",
    force: Force = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Make pairs (or lists, or labels) of rated answers, in the columns of ultrafeedback_binarized."""
    quiet_libraries(offline=offline)
    from zephyr.cli.feedback_files import open_rows, refuse_place
    from zephyr.errors import DataError
    from zephyr.feedback.binarize import BinarizeSettings
    from zephyr.feedback.binarize import binarize as made_of
    from zephyr.records.fields import printable
    from zephyr.records.writing import write_jsonl

    refuse_place(out, force=force, read=file)
    records = open_rows(file, "rated", shape=shape, bad_rows=bad_rows, offline=offline)
    settings = BinarizeSettings(
        output=output,
        chosen=chosen,
        rejected=rejected,
        min_gap=min_gap,
        ties=ties,
        max_pairs_per_prompt=max_pairs,
        kto_threshold=kto_threshold,
        repair_overall=repair and "ultrafeedback" in records.shapes.values(),
        seed=seed,
    )
    made = made_of(records, settings)
    if made.rows:
        write_jsonl(out, made.rows, replace=force)
    tell({"input": file, "output": str(out)}, _accounts(made, output, records.counts), as_json=as_json)
    if not made.rows:
        what = f"no {output} can be made of {made.prompts:,} prompts, so nothing was written"
        raise DataError(printable(file), what, "see above for the reasons, and choose another rule")


def _accounts(made: "Binarized", output: str, unread: Mapping[str, int]) -> dict[str, object]:
    """What was made, and what was left out for which reason: answers and prompts, each by its reason."""
    return {
        "prompts": made.prompts,
        "prompts_used": made.used,
        output: len(made.rows),
        "dropped": {**unread, **made.left_out, **made.dropped},
        "rule": made.rule,
    }


def tell(files: Mapping[str, str], accounts: Mapping[str, object], *, as_json: bool) -> None:
    """Nothing; prints what was made of which file, as JSON or for people."""
    if as_json:
        typer.echo(json.dumps({**files, **accounts}))
    else:
        print_accounts(" -> ".join(files.values()), accounts)


def print_accounts(title: str, accounts: Mapping[str, object]) -> None:
    """Nothing; prints names and values in two columns, those of a table within the table below its name."""
    typer.echo(escape_controls(title))
    rows: list[tuple[str, object]] = []
    for name, value in accounts.items():
        if isinstance(value, Mapping):
            rows += [
                (name.replace("_", " "), "" if value else "nothing"),
                *((f"  {inner}", count) for inner, count in value.items()),
            ]
        else:
            rows.append((name.replace("_", " "), value))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        typer.echo(escape_controls(f"{name:<{width}}  {shown}".rstrip()))
