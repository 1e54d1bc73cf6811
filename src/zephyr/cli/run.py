"""`zephyr run`, `check`, `plan` and `inspect` of a recipe, and `zephyr recipes`: those that come with Zephyr."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zephyr.cli.options import Force
from zephyr.cli.terminal import INTERRUPTED, Offline, can_go_on, escape_controls, quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zephyr.recipe.grid import Combination
    from zephyr.recipe.schema import Recipe
    from zephyr.runs.lock_file import RequestedRun

shipped = typer.Typer(
    name="recipes",
    no_args_is_help=True,
    help="List or copy shipped recipes; import those of others.",
)


def complete_recipes(incomplete: str) -> list[str]:
    """The names of shipped recipes that begin so; files are offered by the shell where none does."""
    from zephyr.recipe.shipped import shipped_recipes

    return [recipe.name for recipe in shipped_recipes() if recipe.name.startswith(incomplete)]


def complete_overrides(incomplete: str) -> list[str]:
    """The keys that a recipe may have, section by section, each with its = at the end."""
    if "=" in incomplete:
        return []
    from zephyr.recipe.outline import all_keys
    from zephyr.recipe.schema import Recipe

    keys = sorted({*all_keys(Recipe)})
    sections = {key.rpartition(".")[0] for key in keys}
    found = [key for key in keys if key.startswith(incomplete) and "." not in key[len(incomplete) :]]
    # A shell ends a word that is complete, so a section that stands alone is opened.
    while len(found) == 1 and found[0] in sections:
        inside = f"{found[0]}."
        found = [key for key in keys if key.startswith(inside) and "." not in key[len(inside) :]]
    return [f"{key}." if key in sections else f"{key}=" for key in found]


def complete_stages(ctx: typer.Context, incomplete: str) -> list[str]:
    """The stages of the recipe on the line that begin so; all that there are where it cannot be read."""
    from zephyr.errors import ZephyrError
    from zephyr.recipe.loading import read_recipe
    from zephyr.recipe.stage_sections import STAGE_NAMES

    try:
        names: Sequence[str] = read_recipe(str(ctx.params.get("recipe")), []).recipe.stages
    except ZephyrError:
        names = STAGE_NAMES
    return [name for name in names if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, the name of a shipped recipe, or a run.lock.json.",
        autocompletion=complete_recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Override settings: sft.train.learning_rate=1.0e-5",
        autocompletion=complete_overrides,
    ),
]

UserCode = Annotated[
    bool,
    typer.Option("--user-code/--no-user-code", help="Whether code that a recipe names may run: a loss, a model."),
]


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.", autocompletion=complete_stages)
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage alone.", autocompletion=complete_stages)
    ] = None,
    offline: Offline = False,
    user_code: UserCode = True,
) -> None:
    """Run a recipe: skip finished stages, continue an interrupted one. A run folder is locked while it runs."""
    try:
        requested = _requested(recipe, overrides, offline=offline, user_code=user_code)
        _announce(requested.recipe, until=until, only=only)
        from rich.console import Console

        from zephyr.pipeline import run_recipe
        from zephyr.rounds import run_rounds
        from zephyr.runs.disk import disk_faults

        with disk_faults(requested.recipe.output_dir):
            if requested.recipe.rounds is not None:
                run_rounds(requested.recipe, console=Console(), until=until, only=only)
            else:
                run_recipe(requested.recipe, console=Console(), until=until, only=only, pinned=requested.pinned)
    except KeyboardInterrupt as stop:
        from zephyr.runs.ranks import is_leader

        if is_leader():
            stage = f" in {stop.args[0]}" if stop.args else ""
            typer.echo(f"stopped{stage}: what is finished is kept; the same command continues from there", err=True)
        raise typer.Exit(INTERRUPTED) from None


def sweep(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all combinations and stop.")] = False,
    offline: Offline = False,
    user_code: UserCode = True,
) -> None:
    """Run every combination of values, KEY=VALUE,VALUE,..., in one run folder, and compare their scores.

    Common stages are made once. The same command continues; a failed combination does not end the others.
    """
    from zephyr.recipe.grid import read_grid

    combinations = read_grid(overrides or [])
    requested = _requested_all(recipe, combinations, offline=offline, user_code=user_code)
    from rich.console import Console

    from zephyr.runs.disk import disk_faults
    from zephyr.runs.ranks import is_leader
    from zephyr.sweep import SweepRun, check_sweep, run_sweep

    runs, console = [SweepRun(*pair) for pair in zip(combinations, requested, strict=True)], Console()
    with can_go_on(), disk_faults(runs[0].recipe.output_dir):
        if is_leader():
            check_sweep(runs, console)
        if not dry_run and any(run.error for run in run_sweep(runs, console)):
            raise typer.Exit(1)


def check(
    recipe: RecipeName, overrides: Overrides = None, offline: Offline = False, user_code: UserCode = True
) -> None:
    """Validate a recipe and its inputs; count tokens, steps, truncated rows; list the output files. No training."""
    requested = _requested(recipe, overrides, offline=offline, user_code=user_code)
    from zephyr.check import check_lines

    for line in check_lines(requested.recipe):
        typer.echo(escape_controls(line))


def plan(  # noqa: PLR0913 - typer makes an option of every parameter
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gpus: Annotated[int, typer.Option(min=1, help="Number of accelerators, 8 to a node.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="a100-80g, h100-80g, ...; default: calibrate on this machine."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Model FLOPs utilisation: share of the peak that training reaches.")
    ] = 0.4,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the calibration in seconds.")] = 10.0,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Simulate a step on --gpus accelerators: memory by kind, traffic; minutes."),
    ] = False,
    offline: Offline = False,
    user_code: UserCode = True,
) -> None:
    """Estimate a run: memory, FLOPs, hours, teacher tokens, disk space; after a run, compare with its actual times."""
    quiet_libraries(offline=offline)
    from zephyr.estimate.devices import device_named
    from zephyr.estimate.duration import Cluster

    cluster = None if gpu is None else Cluster(device_named(gpu), gpus, utilisation)
    requested = _requested(recipe, overrides, offline=offline, user_code=user_code)
    from zephyr.plan import plan_lines

    ranks = gpus if simulate else None
    for line in plan_lines(requested.recipe, cluster, calibration_seconds=seconds, simulated_ranks=ranks):
        typer.echo(escape_controls(line))


def inspect(
    recipe: RecipeName,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option(min=1, help="Row number, from 1.")] = 1,
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="pretrain, sft, reward or align.", autocompletion=complete_stages),
    ] = None,
    offline: Offline = False,
    user_code: UserCode = True,
) -> None:
    """Show a row as the model reads it: coloured tokens, roles, loss mask, truncation, and the prefix tree."""
    requested = _requested(recipe, overrides, offline=offline, user_code=user_code)
    from rich.console import Console

    from zephyr.inspect_row import inspect_row

    inspect_row(requested.recipe, row=row, stage=stage, console=Console())


@shipped.command("list")
def list_recipes() -> None:
    """List the recipes that come with Zephyr."""
    from zephyr.recipe.shipped import shipped_recipes

    for recipe in shipped_recipes():
        typer.echo(f"{recipe.name:<28}{recipe.summary}")


@shipped.command("import")
def import_recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of TRL, axolotl or LLaMA-Factory.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to this file instead.")] = None,
    force: Force = False,
) -> None:
    """Translate another trainer's file into a recipe, which is printed, with a line on stderr for every key.

    \f
    Raises RecipeError for a file that is no other trainer's.
    """
    from zephyr.errors import RecipeError
    from zephyr.recipe.loading import read_recipe, short_yaml

    loaded = read_recipe(str(file), overrides or [])
    if not loaded.notes:
        what = "is a recipe already, or no file of TRL, axolotl, LLaMA-Factory or the alignment-handbook"
        raise RecipeError(str(file), what, "name one of their YAML files")
    for note in loaded.notes:
        typer.echo(escape_controls(note), err=True)
    text = short_yaml(loaded.recipe)
    if out is None:
        print(text, end="")
    elif out.exists() and not force:
        raise RecipeError(str(out), "already exists", "choose another name, or overwrite it with --force")
    else:
        out.write_text(text, encoding="utf-8")


@shipped.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.", autocompletion=complete_recipes)],
    folder: Annotated[Path, typer.Argument(help="Target folder.")] = Path(),
) -> None:
    """Copy a shipped recipe into a folder to edit it; never overwrites a file."""
    from zephyr.recipe import shipped as shipped_files

    typer.echo(str(shipped_files.copy_recipe(name, folder)))


def _requested_all(
    recipe: str, combinations: "Sequence[Combination]", *, offline: bool, user_code: bool
) -> "list[Recipe]":
    """The recipe of every combination of a sweep; notes on what was translated go to stderr, each once.

    Raises RecipeError, or one error for all combinations with a fault.
    """
    quiet_libraries(offline=offline)
    from zephyr.errors import Problems
    from zephyr.runs.lock_file import requested_run

    problems, notes, recipes = Problems(), dict[str, None](), list["Recipe"]()
    for one in combinations:
        with problems.noted():
            requested = requested_run(recipe, one.overrides, offline=offline, user_code=user_code)
            notes |= dict.fromkeys(requested.notes)
            recipes.append(requested.recipe)
    problems.raise_any()
    for note in notes:
        typer.echo(escape_controls(note), err=True)
    return recipes


def _announce(recipe: "Recipe", *, until: str | None, only: str | None) -> None:
    """Say at once what will be run where: the libraries that do it take seconds to load. Raises RecipeError."""
    from zephyr.recipe.schema import chosen_stages
    from zephyr.runs.ranks import is_leader

    if is_leader():
        stages = ", ".join(chosen_stages(recipe, until=until, only=only))
        line = f"{recipe.name}: {stages}; in {recipe.output_dir / recipe.name}"
        print(escape_controls(line), flush=True)


def _requested(recipe: str, overrides: list[str] | None, *, offline: bool, user_code: bool) -> "RequestedRun":
    """The recipe of the command; notes on what was translated go to stderr, once."""
    quiet_libraries(offline=offline)
    from zephyr.runs.layout import LOCK_FILE
    from zephyr.runs.lock_file import requested_run
    from zephyr.runs.ranks import is_leader

    if recipe.endswith(f"/{LOCK_FILE}") and recipe.count("/") == 2 and not Path(recipe).exists():
        from zephyr.deliver.push import file_from_hub

        recipe = str(file_from_hub(recipe))
    requested = requested_run(recipe, overrides or [], offline=offline, user_code=user_code)
    for note in requested.notes if is_leader() else ():
        typer.echo(escape_controls(note), err=True)
    return requested
