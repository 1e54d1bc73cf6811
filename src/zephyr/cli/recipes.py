"""`zephyr run`, `check`, `inspect` and `recipes`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.terminal import INTERRUPTED, Offline, escape_controls, quiet_libraries

if TYPE_CHECKING:
    from zephyr.pipeline.asking import Asked

shipped = typer.Typer(name="recipes", no_args_is_help=True, help="List or copy the recipes that come with Zephyr.")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, the name of a shipped recipe, or a run.lock.json.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the recipe's: sft.train.seed=1"),
]


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Run this stage alone.")] = None,
    offline: Offline = False,
) -> None:
    """Run a recipe: skip finished stages, continue an interrupted one. A run folder is locked while it runs."""
    try:
        asked = _asked(recipe, overrides, offline=offline)
        from rich.console import Console

        from zephyr.pipeline.run import run_recipe
        from zephyr.runs.disk import disk_faults

        with disk_faults(asked.recipe.output_dir):
            run_recipe(asked.recipe, until=until, only=only, pinned=asked.pinned, console=Console())
    except KeyboardInterrupt as stop:
        from zephyr.runs.ranks import is_leader

        if is_leader():
            stage = f" in {stop.args[0]}" if stop.args else ""
            typer.echo(f"stopped{stage}: what is finished is kept; the same command continues from there", err=True)
        raise typer.Exit(INTERRUPTED) from None


def check(recipe: RecipeName, overrides: Overrides = None, offline: Offline = False) -> None:
    """Validate a recipe and its inputs; count tokens, steps, truncated rows; list the files to be written."""
    asked = _asked(recipe, overrides, offline=offline)
    from zephyr.pipeline.check import check_lines

    for line in check_lines(asked.recipe):
        typer.echo(escape_controls(line))


def inspect(
    recipe: RecipeName,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option(min=1, help="Row number, from 1.")] = 1,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="pretrain, sft or align.")] = None,
    offline: Offline = False,
) -> None:
    """Show a row as the model reads it: coloured tokens, roles, loss mask, and the prefix tree."""
    asked = _asked(recipe, overrides, offline=offline)
    from rich.console import Console

    from zephyr.pipeline.inspect import inspect_row

    inspect_row(asked.recipe, row=row, stage=stage, console=Console())


@shipped.command("list")
def list_recipes() -> None:
    """List the recipes that come with Zephyr."""
    from zephyr.recipe.shipped import shipped_recipes

    for recipe in shipped_recipes():
        typer.echo(f"{recipe.name:<28}{recipe.summary}")


@shipped.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    folder: Annotated[Path, typer.Argument(help="Target folder.")] = Path(),
) -> None:
    """Copy a shipped recipe into a folder to edit it; never overwrites a file."""
    from zephyr.recipe import shipped as at_hand

    typer.echo(str(at_hand.copy_recipe(name, folder)))


def _asked(recipe: str, overrides: list[str] | None, *, offline: bool) -> "Asked":
    """The requested recipe; notes on translated settings are printed."""
    quiet_libraries(offline=offline)
    from zephyr.pipeline.asking import asked_recipe
    from zephyr.runs.ranks import is_leader

    asked = asked_recipe(recipe, overrides or [], offline=offline)
    for note in asked.notes if is_leader() else ():
        typer.echo(escape_controls(note), err=True)
    return asked
