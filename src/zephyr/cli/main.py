"""The `zephyr` command: its subcommands, and the place where a user's mistakes are printed.

Nothing here may import torch at the top: `zephyr --help` must answer at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NamedTuple, NoReturn

import typer

from zephyr import __version__
from zephyr.cli.terminal import disk_mistake, escape_controls, escape_reports
from zephyr.errors import ZephyrError

TRACEBACK = "--traceback"
USER_MISTAKE = 2


class CommandPlace(NamedTuple):
    """Where a command stands, its line in `zephyr --help`, and the part of that page that it is in."""

    function: str
    line: str
    panel: str


_RECIPES, _MODELS, _FEEDBACK, _EVALUATION, _REPORTS = "Recipes", "Models", "Data and feedback", "Evaluation", "Reports"
# In the order of `zephyr --help`; the file of a command is imported for it alone.
COMMANDS = {
    "run": CommandPlace("run.run", "Run a recipe; skip finished stages, resume stopped ones.", _RECIPES),
    "sweep": CommandPlace("run.sweep", "Run all combinations of values, and compare scores.", _RECIPES),
    "check": CommandPlace("run.check", "Validate a recipe and its inputs without training.", _RECIPES),
    "plan": CommandPlace("run.plan", "Estimate memory, hours, tokens and disk space.", _RECIPES),
    "inspect": CommandPlace("run.inspect", "Show a row as the model reads it: tokens, loss mask.", _RECIPES),
    "recipes": CommandPlace("run.shipped", "List or copy shipped recipes; import those of others.", _RECIPES),
    "chat": CommandPlace("serving.chat", "Chat with a model in the terminal.", _MODELS),
    "serve": CommandPlace("serving.serve", "Serve a model by OpenAI's API.", _MODELS),
    "ui": CommandPlace("serving.ui", "Chat in the browser; vote between two models.", _MODELS),
    "export": CommandPlace("deliver.export", "Write GGUF files, each verified against the model.", _MODELS),
    "push": CommandPlace("deliver.push", "Publish a run, model or rows on the hub.", _MODELS),
    "pull": CommandPlace("deliver.pull", "Get a run from the hub, to continue it here.", _MODELS),
    "synth": CommandPlace("synth.synth", "Generate training dialogues with a teacher.", _FEEDBACK),
    "judge": CommandPlace("judge.judge_group", "Rate answers; audit a judge.", _FEEDBACK),
    "binarize": CommandPlace("binarize.binarize_command", "Make pairs, lists or labels from ratings.", _FEEDBACK),
    "annotate": CommandPlace("annotate.annotate", "Rank or rate answers by hand in the browser.", _FEEDBACK),
    "calls": CommandPlace("calls.calls", "Read a ledger: requests, answers, failures, cost.", _FEEDBACK),
    "eval": CommandPlace("evaluation.evaluate", "Evaluate a model on benchmarks.", _EVALUATION),
    "mt-bench": CommandPlace("mt_bench.mt_bench", "Evaluate a model on MT-Bench.", _EVALUATION),
    "alpaca-eval": CommandPlace("arena.alpaca_eval", "Compare a model with AlpacaEval's baseline.", _EVALUATION),
    "arena": CommandPlace("arena.arena", "Let a judge compare two models.", _EVALUATION),
    "winrate": CommandPlace("arena.winrate", "Show win rates of AlpacaEval annotations.", _EVALUATION),
    "compare": CommandPlace("compare.compare", "Compare evaluations item by item.", _EVALUATION),
    "reward-accuracy": CommandPlace(
        "reward_accuracy.reward_accuracy", "Measure rewards on held-out pairs.", _EVALUATION
    ),
    "data": CommandPlace("mt_bench.data_group", "Fetch the files of judged benchmarks.", _EVALUATION),
    "card": CommandPlace("deliver.card", "Write or audit a model card.", _REPORTS),
    "report": CommandPlace("deliver.report", "Write the report of a run as one HTML page.", _REPORTS),
    "env": CommandPlace("environment.print_environment", "Print versions, devices and memory.", _REPORTS),
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
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog=f"{TRACEBACK}, anywhere on the line, prints the traceback of an error.",
    )
    app.callback()(zephyr)
    for name in COMMANDS if only is None or only not in COMMANDS else (only,):
        place = COMMANDS[name]
        module, _, attribute = place.function.partition(".")
        command = getattr(import_module(f"zephyr.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, short_help=place.line, rich_help_panel=place.panel)
        else:
            app.command(name, short_help=place.line, rich_help_panel=place.panel)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake is printed in one line, with exit code 2; any other error is raised."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = TRACEBACK in words
    escape_reports()
    try:
        if words and (words[0] not in COMMANDS or any(word.startswith("--") for word in words)):
            from zephyr.cli.habits import refuse_habits  # most lines need none of its tables

            refuse_habits(words, command_line)
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


def _end(mistake: ZephyrError) -> NoReturn:
    typer.echo(f"error: {escape_controls(str(mistake))}", err=True)
    sys.exit(USER_MISTAKE)
