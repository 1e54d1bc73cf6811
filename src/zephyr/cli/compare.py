"""`zephyr compare`: evaluations compared with each other, or with published scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.options import Force
from zephyr.cli.tables import print_rows
from zephyr.cli.terminal import escape_controls

if TYPE_CHECKING:
    from zephyr.evaluation.results import Result


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The --out folders of evaluations.")],
    published: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare the runs with this model's published scores.")
    ] = None,
    radar: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a radar chart of the categories, as SVG.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Task of the radar chart.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare evaluations with the first one, item by item: differences with intervals, and deviations of protocol.

    \f
    Raises DataError if there is nothing to compare with.
    """
    import json

    from zephyr.errors import DataError
    from zephyr.evaluation.results import read_results

    if len(runs) < 2 and published is None and radar is None:
        raise DataError("zephyr compare", "needs something to compare with", "name a second run, or --published MODEL")
    read = {_name(run, runs): read_results(run) for run in runs}
    fields: dict[str, object] = {"comparisons": _comparisons(read, seed, quiet=as_json)}
    if published is not None:
        fields["published"] = _beside(read, published, quiet=as_json)
    if radar is not None:
        _write_radar(read, radar, task, force=force)
    if as_json:
        typer.echo(json.dumps(fields, indent=1))


def _comparisons(read: dict[str, list["Result"]], seed: int, *, quiet: bool) -> list[dict[str, object]]:
    """Every further run against the first, printed unless quiet."""
    from zephyr.evaluation.compare import deviations, paired_differences

    base, *others = read
    compared: list[dict[str, object]] = []
    for other in others:
        pairs = [(a, b) for a in read[base] for b in read[other] if a.benchmark == b.benchmark]
        for a, b in pairs:
            rows = [dict(one._asdict()) for one in paired_differences(a, b, seed=seed)]
            differs = deviations(a.protocol, b.protocol)
            compared.append(
                {"first": base, "second": other, "benchmark": a.benchmark, "rows": rows, "deviations": differs}
            )
            if not quiet:
                typer.echo(escape_controls(f"{a.benchmark}: {other} (second) against {base} (first)"))
                print_rows(rows)
                _print_deviations("the protocols differ", differs)
        if not pairs and not quiet:
            typer.echo(escape_controls(f"{other} and {base} have no benchmark in common"))
    return compared


def _beside(read: dict[str, list["Result"]], model: str, *, quiet: bool) -> list[dict[str, object]]:
    """Every run compared with the published scores, printed unless quiet."""
    from zephyr.evaluation.published import beside_published, published_deviations

    compared: list[dict[str, object]] = []
    for name, results in read.items():
        for result in results:
            rows = [dict(one._asdict()) for one in beside_published(result, model)]
            differs = published_deviations(result, model)
            compared.append({"run": name, "benchmark": result.benchmark, "rows": rows, "deviations": differs})
            if not quiet:
                typer.echo(escape_controls(f"{result.benchmark} of {name} beside the published {model}"))
                print_rows(rows)
                _print_deviations("deviations of protocol, published first", differs)
    return compared


def _print_deviations(head: str, differs: list[str]) -> None:
    if differs:
        typer.echo(f"{head}:")
    for one in differs:
        typer.echo(escape_controls(f"  {one}"))


def _write_radar(read: dict[str, list["Result"]], path: Path, task: str | None, *, force: bool) -> None:
    from zephyr.atomic import replace_unedited
    from zephyr.errors import DataError
    from zephyr.evaluation.compare_radar import category_means, radar_svg, top_of

    means = {name: category_means(results) for name, results in read.items()}
    shared = set.intersection(*(set(one) for one in means.values()))
    drawable = sorted(name for name in shared if len(next(iter(means.values()))[name]) >= 3)
    if task not in (None, *drawable) or not drawable:
        what = f"there is no task of 3 or more categories that all runs share{f', got {task}' if task else ''}"
        raise DataError("--radar", what, f"name one of {', '.join(drawable)}" if drawable else "compare other runs")
    chosen = task or drawable[0]
    axes = list(dict.fromkeys(category for one in means.values() for category in one[chosen]))
    series = {name: [one[chosen].get(category) for category in axes] for name, one in means.items()}
    replace_unedited(path, radar_svg(chosen, axes, series, top=top_of(chosen, series)), force=force)
    typer.echo(f"-> {path}", err=True)


def _name(run: Path, runs: list[Path]) -> str:
    """The last part of its path, or all of it where that is not unique."""
    alike = [other for other in runs if other.resolve().name == run.resolve().name]
    return run.resolve().name if len(alike) == 1 else str(run)
