"""What people type who come from other tools, and what to type here."""

import re
from collections.abc import Sequence

from zephyr.errors import RecipeError
from zephyr.recipe.handbook.keys import habit

RECIPE_COMMANDS = ("run", "sweep", "check", "plan", "inspect")
_TRAINS = "write zephyr run RECIPE.yaml (zephyr recipes list shows recipes to start from), or zephyr.{} in Python"
_TRAINED = ["sft", "dpo", "orpo", "kto", "reward_model"]
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
_DEVICE = "the available device is used; CUDA_VISIBLE_DEVICES chooses one, or hides all"
_FILE = "the recipe is a plain argument: zephyr run RECIPE.yaml"
# The same for options of a command that takes a recipe; what is a setting there is in `habit`.
OPTION_HABITS = {
    "config": _FILE, "config_file": _FILE, "recipe": _FILE, "yaml": _FILE, "num_processes": _LAUNCHED,
    "nproc_per_node": _LAUNCHED, "num_gpus": _LAUNCHED, "gpus": _LAUNCHED, "nnodes": _LAUNCHED,
    "num_machines": _LAUNCHED,
    "device": _DEVICE, "gpu_ids": _DEVICE, "gpu": _DEVICE, "cpu": _DEVICE,
    "resume": "the same command resumes a run",
    "overwrite": "a changed setting makes its stage anew; or delete the run",
    "name": "write name=NAME",
    "verbose": "every step is printed already; --traceback shows where an error is raised",
    "model": "write model.name_or_path=MODEL",
}  # fmt: skip


def refuse_habits(words: Sequence[str]) -> None:
    """Raise RecipeError for a command or an option that another tool has, with what to write here."""
    _refuse_other_commands(words)
    _refuse_dashed_settings(words)


def _refuse_other_commands(words: Sequence[str]) -> None:
    """Raise RecipeError for a command that another tool has."""
    if words and words[0] in COMMAND_HABITS:
        raise RecipeError(f"zephyr {words[0]}", "there is no such command", COMMAND_HABITS[words[0]])


def _refuse_dashed_settings(words: Sequence[str]) -> None:
    """Raise RecipeError for settings that are written as options of a command that takes a recipe."""
    if not words or words[0] not in RECIPE_COMMANDS:
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
