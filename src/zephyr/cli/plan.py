"""`zephyr plan`: estimate a run before it begins."""

from typing import Annotated

import typer

from zephyr.cli.recipes import Overrides, RecipeName
from zephyr.cli.terminal import Offline, escape_controls, quiet_libraries


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of accelerators, 8 per node.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Accelerator: a100-80g, h100-80g, ...; default: this machine, timed."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak FLOPs that training reaches.")
    ] = 0.4,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds for which this machine is timed.")] = 10.0,
    offline: Offline = False,
) -> None:
    """Estimate a run: memory, operations, hours, calls to teachers, disk; beside them what a finished run took."""
    quiet_libraries(offline=offline)
    from zephyr.estimate.devices import device_named
    from zephyr.estimate.duration import Cluster

    cluster = None if gpu is None else Cluster(device_named(gpu), gpus, utilisation)
    from zephyr.pipeline.asking import asked_recipe
    from zephyr.pipeline.plan_recipe import plan_lines

    asked = asked_recipe(recipe, overrides or [], offline=offline)
    for note in asked.notes:
        typer.echo(escape_controls(note), err=True)
    for line in plan_lines(asked.recipe, cluster, calibration_seconds=seconds):
        typer.echo(escape_controls(line))
