"""`zephyr reward-accuracy`: how often a reward, a policy's or a reward model's, ranks the chosen answer higher."""

from pathlib import Path
from typing import Annotated

import typer

from zephyr.cli.judged_options import PrintJson
from zephyr.cli.options import BadRowsOption, Columns, Ignore, RowFormat, Seed, Where
from zephyr.cli.terminal import Offline, can_go_on, escape_controls, quiet_libraries


def reward_accuracy(  # noqa: PLR0913 - typer makes an option of every parameter
    policy: Annotated[str, typer.Argument(metavar="MODEL", help="A policy or a reward model: a folder or a hub id.")],
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="Pairs in any format: a file, folder, or hub id.")],
    *,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model a policy was trained from; none for a reward model.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for log-probs and metrics.")],
    beta: Annotated[
        float | None, typer.Option(min=0, help="Beta of a policy's reward, best its own; 0.1 if left out.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=2, help="Maximum tokens of prompt and answer; longer pairs are dropped.")
    ] = 4096,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N pairs.")] = None,
    seed: Seed = 0,
    shape: RowFormat = "auto",
    columns: Columns = None,
    where: Where = None,
    ignore: Ignore = None,
    bad_rows: BadRowsOption = "stop",
    as_json: PrintJson = False,
    offline: Offline = False,
) -> None:
    """Measure reward accuracy and margins on held-out pairs, by source and length. Run again to continue.

    The reward of a policy is relative to its reference; a reward model gives its own.
    """
    quiet_libraries(offline=offline)
    import json

    from zephyr.models.model_name import check_named

    for model in filter(None, (policy, reference)):
        check_named(model, offline=offline)
    from zephyr.cli.files import source_of
    from zephyr.cli.tables import print_rows
    from zephyr.evaluation.reward_accuracy import RewardRun, run_reward_accuracy

    source = source_of(
        pairs, shape=shape, columns=columns, where=where, ignore=ignore, bad_rows=bad_rows, max_rows=limit
    )
    with can_go_on():
        result = run_reward_accuracy(RewardRun(policy, reference, source, out, beta, max_tokens, seed, offline))
    if as_json:
        typer.echo(json.dumps({"protocol": result.protocol, "scores": result.scores, "output": str(out)}))
        return
    print_rows(
        [
            {"part": part, "of": name.strip(), **row}
            for part, rows in result.scores.items()
            if isinstance(rows, dict)
            for name, row in rows.items()
            if isinstance(row, dict)
        ]
    )
    left_out = result.protocol["left_out"]
    for reason, count in left_out.items() if isinstance(left_out, dict) else ():
        typer.echo(escape_controls(f"left out: {count} ({reason})"))
    unused = result.protocol["columns_not_used"]
    for name, count in unused.items() if isinstance(unused, dict) else ():
        typer.echo(escape_controls(f"column not used: {name} ({count})"))
    typer.echo(f"-> {out}")
