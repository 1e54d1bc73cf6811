"""The `zephyr` command: its subcommands, and the place where a user's mistakes are printed.

Nothing here may import torch at the top: `zephyr --help` must answer at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from zephyr import __version__
from zephyr.cli.terminal import disk_mistake, escape_controls, escape_reports
from zephyr.errors import RecipeError, ZephyrError
from zephyr.recipe.handbook.keys import habit

TRACEBACK = "--traceback"
USER_MISTAKE = 2

# Where each command stands, in the order of `zephyr --help`; the file of a command is imported for it alone.
COMMANDS = {
    "run": "run.run",
    "sweep": "run.sweep",
    "check": "run.check",
    "plan": "run.plan",
    "inspect": "run.inspect",
    "recipes": "run.shipped",
    "chat": "serving.chat",
    "serve": "serving.serve",
    "ui": "serving.ui",
    "annotate": "annotate.annotate",
    "synth": "synth.synth",
    "judge": "judge.judge_group",
    "binarize": "binarize.binarize_command",
    "winrate": "arena.winrate",
    "mt-bench": "mt_bench.mt_bench",
    "alpaca-eval": "arena.alpaca_eval",
    "arena": "arena.arena",
    "eval": "evaluation.evaluate",
    "compare": "compare.compare",
    "reward-accuracy": "reward_accuracy.reward_accuracy",
    "card": "deliver.card",
    "report": "deliver.report",
    "export": "deliver.export",
    "push": "deliver.push",
    "data": "mt_bench.data_group",
    "calls": "calls.calls",
    "env": "environment.print_environment",
}


def print_version(wanted: bool) -> None:
    """Print the version and end the command if `--version` is given."""
    if wanted:
        typer.echo(f"zephyr {__version__}")
        raise typer.Exit


def zephyr(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Turn a base language model into a chat model, and prove that it worked."""
    # The eager callback above ends the command, so the option is never seen here.
    assert not show_version


def command_line(only: str | None = None) -> typer.Typer:
    """The application with the command of this name alone, or with all commands where there is none of this name."""
    app = typer.Typer(
        name="zephyr",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        epilog=f"{TRACEBACK}, anywhere on the line, prints the traceback of an error.",
    )
    app.callback()(zephyr)
    for name in COMMANDS if only is None or only not in COMMANDS else (only,):
        module, _, attribute = COMMANDS[name].partition(".")
        command = getattr(import_module(f"zephyr.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command)
        else:
            app.command(name)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake is printed in one line, with exit code 2; any other error is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = TRACEBACK in words
    escape_reports()
    try:
        _refuse_dashed_settings(words)
        words = [word for word in words if word != TRACEBACK]
        command_line(words[0] if words else None)(words, prog_name="zephyr")
    except ZephyrError as error:
        if wants_traceback:
            raise
        _end(error)
    except OSError as error:
        # `zephyr run` handles disk errors itself; these are those of all other commands.
        mistake = disk_mistake(error)
        if wants_traceback or mistake is None:
            raise
        _end(mistake)


def _refuse_dashed_settings(words: Sequence[str]) -> None:
    """Raise RecipeError for settings that are written as options of a command that takes a recipe."""
    if not words or words[0] not in ("run", "sweep", "check", "plan", "inspect"):
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and ("." in name or habit(name) is not None):
            given = f"{name}={value if equals else following}"
            advice = f"write {given}" if "." in name else habit(name)
            raise RecipeError(
                word, "settings of a recipe are no options", f"{advice}, such as sft.train.learning_rate=1.0e-5"
            )


def _end(mistake: ZephyrError) -> NoReturn:
    typer.echo(f"error: {escape_controls(str(mistake))}", err=True)
    sys.exit(USER_MISTAKE)
