"""The `zephyr` command: its subcommands, and the place where a user's mistakes are printed.

Nothing here may import torch at the top: `zephyr --help` must answer at once.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NamedTuple, NoReturn

import typer

from zephyr import __version__
from zephyr.cli.terminal import disk_mistake, escape_controls, escape_reports
from zephyr.errors import RecipeError, ZephyrError
from zephyr.recipe.handbook.keys import habit

TRACEBACK = "--traceback"
_RECIPE_COMMANDS = ("run", "sweep", "check", "plan", "inspect")
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
_TRAINS = "write zephyr run RECIPE.yaml; zephyr recipes list has some to begin with, zephyr.{} is for Python"
_TRAINED = ["sft", "dpo", "orpo", "kto", "reward_model"]
# What people write who come from other tools, and what to write here.
COMMAND_HABITS = {
    **{name.replace("_", "-"): _TRAINS.format(name) for name in _TRAINED}, "reward": _TRAINS.format("reward_model"),
    "train": _TRAINS.format("dpo"), "finetune": _TRAINS.format("sft"), "fine-tune": _TRAINS.format("sft"),
    "pretrain": "write zephyr run RECIPE.yaml with a pretrain section",
    "distill": "write zephyr run RECIPE.yaml with a synth section",
    "grpo": "write zephyr run RECIPE.yaml with rounds: zephyr recipes copy smollm2-135m-checked",
    "preprocess": "write zephyr check RECIPE.yaml: it prepares, counts and truncates",
    "validate": "write zephyr check RECIPE.yaml", "lint": "write zephyr check RECIPE.yaml",
    "resume": "write zephyr run RECIPE.yaml again: finished work is kept",
    "evaluate": "write zephyr eval MODEL --tasks NAMES", "benchmark": "write zephyr eval MODEL --tasks NAMES",
    "lm-eval": "write zephyr eval MODEL --tasks NAMES", "lm_eval": "write zephyr eval MODEL --tasks NAMES",
    "predict": "write zephyr chat MODEL, or zephyr serve MODEL", "infer": "write zephyr chat MODEL",
    "inference": "write zephyr chat MODEL, or zephyr serve MODEL", "vllm-serve": "write zephyr serve MODEL",
    "generate": "write zephyr judge PROMPTS --models MODEL ..., or zephyr.generate in Python",
    "api": "write zephyr serve MODEL", "webchat": "write zephyr ui MODEL", "webui": "write zephyr ui MODEL",
    "gui": "write zephyr ui MODEL", "merge": "leave it out: a run with LoRA writes the merged model beside its adapter",
    "merge-lora": "leave it out: a run with LoRA writes the merged model beside its adapter",
    "quantize": "write zephyr export MODEL", "convert": "write zephyr export MODEL for GGUF",
    "upload": "write zephyr push PATH OWNER/NAME", "publish": "write zephyr push PATH OWNER/NAME",
    "login": "write hf auth login, or set HF_TOKEN", "fetch": "write zephyr data fetch",
    "download": "leave it out: models and data of the hub are fetched when they are named",
    "init": "write zephyr recipes copy quickstart", "new": "write zephyr recipes copy quickstart",
    "import": "write zephyr recipes import FILE",
    "list": "write zephyr recipes list", "ls": "write zephyr recipes list",
    "demo": "write zephyr run quickstart", "quickstart": "write zephyr run quickstart",
    "estimate": "write zephyr plan RECIPE.yaml", "label": "write zephyr annotate FILE",
    "rate": "write zephyr judge FILE",
    "version": "write zephyr --version", "help": "write zephyr --help, or zephyr COMMAND --help",
    "doctor": "write zephyr env", "info": "write zephyr env", "logs": "write zephyr report RUN",
    "launch": "write torchrun --nproc-per-node N -m zephyr run RECIPE.yaml",
}  # fmt: skip
# Options of ours that have such a name.
_OWN = {("plan", "gpu"), ("plan", "gpus")}
_LAUNCHED = "several devices: torchrun --nproc-per-node N -m zephyr run RECIPE.yaml"
_DEVICE = "the device at hand is used: CUDA_VISIBLE_DEVICES chooses one, or hides all"
_FILE = "the recipe stands without an option: zephyr run RECIPE.yaml"
# The same for options of a command that takes a recipe; what is a setting there is in `habit`.
OPTION_HABITS = {
    "config": _FILE, "config_file": _FILE, "recipe": _FILE, "yaml": _FILE, "num_processes": _LAUNCHED,
    "nproc_per_node": _LAUNCHED, "num_gpus": _LAUNCHED, "gpus": _LAUNCHED, "nnodes": _LAUNCHED,
    "num_machines": _LAUNCHED,
    "device": _DEVICE, "gpu_ids": _DEVICE, "gpu": _DEVICE, "cpu": _DEVICE,
    "resume": "the same command resumes a run",
    "overwrite": "a changed setting makes its stage anew; or delete the run",
    "name": "write name=NAME",
    "verbose": "every step is told; --traceback shows where an error is raised",
    "model": "write model.name_or_path=MODEL",
}  # fmt: skip


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
        _refuse_other_commands(words)
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


def _refuse_other_commands(words: Sequence[str]) -> None:
    """Raise RecipeError for a command that another tool has."""
    if words and words[0] in COMMAND_HABITS:
        raise RecipeError(f"zephyr {words[0]}", "there is no such command", COMMAND_HABITS[words[0]])


def _refuse_dashed_settings(words: Sequence[str]) -> None:
    """Raise RecipeError for settings that are written as options of a command that takes a recipe."""
    if not words or words[0] not in _RECIPE_COMMANDS:
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name if "." in name else name.replace("-", "_")
        if not word.startswith("--"):
            continue
        if name in OPTION_HABITS and (words[0], name) not in _OWN:
            raise RecipeError(word, "there is no such option", OPTION_HABITS[name])
        advice = _advice(name, value if equals else following)
        if advice is not None:
            raise RecipeError(word, "settings of a recipe are no options", advice)


def _advice(name: str, value: str) -> str | None:
    """How a setting is written that was given as an option; None for what is no setting here or of other trainers."""
    value = value if value and not value.startswith("--") else "VALUE"
    if "." in name:
        return f"write {name}={value}"
    said = habit(name)
    found = re.fullmatch(r"write (?:(\S+) in its stage|(\w+) at the top of the recipe)", said or "")
    if found is None and said is not None:
        return said
    from zephyr.recipe.train_section import TrainSection

    if found is None and name not in TrainSection.model_fields:
        return None
    in_stage, at_top = found.groups() if found is not None else (f"train.{name}", None)
    stage = "align" if in_stage and in_stage.startswith("objective.") else "sft"
    return f"write {at_top}={value}" if at_top else f"write {stage}.{in_stage}={value}, or that of another stage"


def _end(mistake: ZephyrError) -> NoReturn:
    typer.echo(f"error: {escape_controls(str(mistake))}", err=True)
    sys.exit(USER_MISTAKE)
