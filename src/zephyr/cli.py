"""The `zephyr` command: one function a verb, and the place where a user's mistakes are printed.

Nothing here may import torch at the top: `zephyr --help` must answer at once.
"""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import psutil
import typer

from zephyr import __version__
from zephyr.errors import ZephyrError

TRACEBACK = "--traceback"
USER_MISTAKE = 2
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


if __name__ == "__main__":
    main()
