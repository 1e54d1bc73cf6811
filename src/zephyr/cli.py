"""The `zephyr` command: one function a verb, and the place where a user's mistakes are printed.

Nothing here may import torch at the top: `zephyr --help` must answer at once.
"""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
import typer

from zephyr import __version__
from zephyr.errors import ZephyrError

TRACEBACK = "--traceback"
USER_MISTAKE = 2
INTERRUPTED = 130
GIBIBYTE = 2**30
REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "bitsandbytes",
    "liger-kernel",
    "torchao",
    "flash-attn",
    "trl",
)

app = typer.Typer(
    name="zephyr",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=f"{TRACEBACK}, anywhere on the line, shows where in the code an error came from.",
)
recipes = typer.Typer(name="recipes", no_args_is_help=True, help="List or copy the recipes that come with Zephyr.")
app.add_typer(recipes)


def print_version(wanted: bool) -> None:
    """Nothing: prints the version and ends the command, if that was asked for."""
    if wanted:
        typer.echo(f"zephyr {__version__}")
        raise typer.Exit


@app.callback()
def zephyr(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Turn a base language model into a chat model, and prove that it worked."""
    # The eager callback above ends the command, so the option is never seen here.
    assert not show_version


@app.command("env")
def print_environment() -> None:
    """Print versions, devices, cores and memory: what a bug report needs."""
    memory = psutil.virtual_memory()
    rows = [
        ("zephyr", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
        ("cores", str(count_cores())),
        ("memory", f"{memory.available / GIBIBYTE:.1f} of {memory.total / GIBIBYTE:.1f} GiB free"),
        *((name, installed_version(name)) for name in REPORTED_PACKAGES),
        *(("device", device) for device in list_devices()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, the name of a shipped recipe, or a run.lock.json.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings instead of the recipe's: sft.train.seed=1"),
]
Offline = Annotated[bool, typer.Option("--offline", help="Touch no network.")]


@app.command("run")
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Make this stage alone.")] = None,
    offline: Offline = False,
) -> None:
    """Run a recipe: what is finished is skipped, what was stopped goes on."""
    quiet_libraries(offline=offline)
    from rich.console import Console

    from zephyr.pipeline.asking import asked_recipe

    asked = asked_recipe(recipe, overrides or [], offline=offline)
    for note in asked.notes:
        typer.echo(escape_controls(note), err=True)

    from zephyr.pipeline.run import run_recipe

    run_recipe(asked.recipe, until=until, only=only, pinned=asked.pinned, console=Console())


@app.command("check")
def check(recipe: RecipeName, overrides: Overrides = None, offline: Offline = False) -> None:
    """Check a recipe and its inputs, count tokens and steps, name every file to be written; train nothing."""
    quiet_libraries(offline=offline)
    from zephyr.pipeline.asking import asked_recipe

    asked = asked_recipe(recipe, overrides or [], offline=offline)
    for note in asked.notes:
        typer.echo(escape_controls(note), err=True)

    from zephyr.pipeline.check import check_lines

    for line in check_lines(asked.recipe):
        typer.echo(escape_controls(line))


@app.command("inspect")
def inspect(
    recipe: RecipeName,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option(min=1, help="Which row, counted from 1.")] = 1,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="pretrain, sft or align.")] = None,
    offline: Offline = False,
) -> None:
    """Show a row as the model gets it: its tokens in colour, who says them, which of them are learnt, and the tree."""
    quiet_libraries(offline=offline)
    from rich.console import Console

    from zephyr.pipeline.asking import asked_recipe

    asked = asked_recipe(recipe, overrides or [], offline=offline)

    from zephyr.pipeline.inspect import inspect_row

    inspect_row(asked.recipe, row=row, stage=stage, console=Console())


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes that come with Zephyr."""
    from zephyr.recipe.shipped import shipped_recipes

    for shipped in shipped_recipes():
        typer.echo(f"{shipped.name:<28}{shipped.summary}")


@recipes.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    folder: Annotated[Path, typer.Argument(help="Where the file goes.")] = Path(),
) -> None:
    """Copy a shipped recipe into a folder, to be changed there; never overwrites a file."""
    from zephyr.recipe import shipped

    typer.echo(str(shipped.copy_recipe(name, folder)))


def quiet_libraries(*, offline: bool) -> None:
    """Nothing; afterwards the libraries that are imported from now on send no telemetry, and offline nothing at all."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def count_cores() -> int:
    """Number of cores this process may use, which a container can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(package: str) -> str:
    """The installed version of a package, or `not installed`, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def list_devices() -> list[str]:
    """One description for each device that torch can compute on, the processor first."""
    import torch

    devices = [f"cpu, {torch.get_num_threads()} threads"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return devices
    module = torch.get_device_module(accelerator)
    for index in range(torch.accelerator.device_count()):
        # Apple's backend has one device and no name for it.
        name = module.get_device_name(index) if hasattr(module, "get_device_name") else platform.machine()
        devices.append(f"{accelerator.type}:{index}, {name}")
    return devices


def escape_controls(text: str) -> str:
    """The text with control characters written out, so that quoted data cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Nothing: runs the command line, and prints a user's mistake in one line with exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = TRACEBACK in words
    try:
        app([word for word in words if word != TRACEBACK], prog_name="zephyr")
    except ZephyrError as error:
        if wants_traceback:
            raise
        typer.echo(f"error: {escape_controls(str(error))}", err=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
