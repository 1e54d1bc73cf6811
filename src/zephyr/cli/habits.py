"""What people type who come from other tools, and what to type here."""

import re
from collections.abc import Callable, Iterator, Sequence

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

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
    "resume": "write zephyr run RECIPE.yaml again: finished work is kept; from the hub, zephyr pull OWNER/NAME first",
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
    "download": "leave it out: models and data of the hub are fetched when they are named; a run by zephyr pull",
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


_OUT, _LIMIT, _NAMED = ("out",), ("limit",), ("<MODEL", "models", "teacher", "judge")
_ROWS, _AT_ONCE = ("<FILE", "<PAIRS", "<PATH", "prompts", "seeds", "data"), ("max-tokens", "concurrency")
_LENGTHS, _ANSWERS = ("max-new-tokens", "max-reply-tokens"), ("num-answers", "count")
_KEPT = "leave it out: what was answered is kept, and not asked again"
_KEY, _ADDRESS = ("api-key-env", "token-env"), "the address is a part of the name: endpoint:MODEL@URL"
_ENGINE = "leave it out; vllm serve MODEL, run by itself, takes vLLM's own options"
_REMOTE = "a recipe names code of others, with its commit: model.trusted_code"
# Options of distilabel, TRL, lm-eval, alpaca_eval, FastChat, vLLM, Unsloth and the hub's command, for commands without
# a recipe: the first option of ours that the command has, <X for a plain argument that begins so; or what to do.
EQUIVALENTS: dict[str, tuple[str, ...]] = {
    "num-completions": _ANSWERS, "num-generations": _ANSWERS, "num-samples": (*_ANSWERS, "limit"), "n": _ANSWERS,
    "num-return-sequences": _ANSWERS, "num-responses": _ANSWERS, "num-choices": _ANSWERS, "num-instructions": _ANSWERS,
    "num-candidates": _ANSWERS, "output": _OUT, "output-path": _OUT, "output-dir": _OUT, "output-file": _OUT,
    "outfile": _OUT, "out-dir": _OUT, "save-dir": _OUT, "answer-file": _OUT, "save-path": _OUT, "max-instances": _LIMIT,
    "max-samples": _LIMIT, "num-examples": _LIMIT, "num-prompts": _LIMIT, "max-examples": _LIMIT, "model": _NAMED,
    "model-name-or-path": _NAMED, "model-path": _NAMED, "model-args": _NAMED, "model-name": _NAMED,
    "pretrained": _NAMED, "hf-path": _NAMED, "model-list": _NAMED, "llm": ("teacher", "judge", "models"),
    "base-model": ("<B", "reference", "<MODEL"), "baseline-model": ("<B", "data"), "judge-model": ("judge",),
    "annotators-config": ("judge",), "annotator": ("judge",), "evaluator": ("judge",),
    "judge-file": ("wording", "judge-prompts", "judge-prompt"), "model-outputs": ("<MODEL", "<FILE"),
    "reference-outputs": ("data", "<B"), "question-file": ("data", "prompts"), "dataset": _ROWS, "dataset-name": _ROWS,
    "input": _ROWS, "input-file": _ROWS, "data-path": _ROWS, "file": _ROWS, "prompts-file": _ROWS,
    "instructions": _ROWS, "data-dir": _ROWS, "num-fewshot": ("shots",), "fewshot": ("shots",), "n-shot": ("shots",),
    "task": ("tasks",), "bench-name": ("tasks",), "apply-chat-template": ("chat-template",),
    "fewshot-as-multiturn": ("chat-template",), "system-instruction": ("system",),
    "system-prompt": ("system", "person"), "gen-kwargs": (*_LENGTHS, "temperature"),
    "log-samples": ("leave it out: every answer is kept in --out",),
    "write-out": ("leave it out: every prompt is kept in --out",), "include": ("include-path",), "use-cache": (_KEPT,),
    "cache-dir": ("ledger", _KEPT), "cache-requests": (_KEPT,), "resume": (_KEPT,), "caching-path": ("ledger", _KEPT),
    "batch-size": _AT_ONCE, "input-batch-size": _AT_ONCE, "per-device-eval-batch-size": _AT_ONCE,
    "num-workers": _AT_ONCE, "num-proc": _AT_ONCE, "parallel": _AT_ONCE, "max-concurrency": _AT_ONCE,
    "num-threads": _AT_ONCE, "max-workers": _AT_ONCE, "max-tokens": _LENGTHS,
    "max-length": (*_LENGTHS, "max-tokens"), "max-gen-toks": _LENGTHS, "max-new-token": _LENGTHS,
    "num-predict": _LENGTHS, "api-key": _KEY, "openai-api-key": _KEY,
    "token": (*_KEY, "set HF_TOKEN, or hf auth login"), "hf-token": ("set HF_TOKEN",), "base-url": (_ADDRESS,),
    "api-base": (_ADDRESS,), "openai-api-base": (_ADDRESS,), "endpoint": (_ADDRESS,), "device": (_DEVICE,),
    "gpu": (_DEVICE,), "gpu-ids": (_DEVICE,), "torch-dtype": ("dtype", "leave it out: as the device needs"),
    "load-in-4bit": ("leave it out: models are loaded in the precision of the device",),
    "tensor-parallel-size": (_ENGINE,), "gpu-memory-utilization": (_ENGINE,), "max-model-len": (_ENGINE,),
    "served-model-name": (_ENGINE,), "quantization": ("gguf", _ENGINE), "backend": ("engine",), "quant": ("gguf",),
    "outtype": ("gguf",), "quantization-method": ("gguf",), "server-name": ("host",), "server-port": ("port",),
    "share": ("host",), "trust-remote-code": (_REMOTE,), "repo-id": ("<REPO",), "hub-model-id": ("<REPO",),
    "hub-dataset-id": ("data", "<REPO"), "local-dir": ("output-dir",),
    "repo-type": ("leave it out: it follows from what is pushed",),
    "public": ("leave it out: a repository is public without --private",), "overwrite": ("force",),
    "overwrite-output-dir": ("force",),
    "is-overwrite-leaderboard": (_KEPT,), "verbose": (OPTION_HABITS["verbose"],),
    "verbosity": (OPTION_HABITS["verbose"],), "margin": ("min-gap",), "strategy": ("rejected",),
    "annotation-mode": ("mode",), "questions": ("mode",), "criteria": ("aspects", "rubric"), "aspect": ("aspects",),
}  # fmt: skip


def refuse_habits(words: Sequence[str], command_line: Callable[[str], typer.Typer]) -> None:
    """Raise RecipeError for a command or an option that another tool has, with what to write here.

    `command_line`: the application with one command of this name.
    """
    _refuse_other_commands(words)
    _refuse_dashed_settings(words)
    asked = [word for word in words if word.startswith("--") and word.partition("=")[0] != "--"]
    if asked and not words[0].startswith("-") and any(_is_foreign(word) for word in asked):
        _refuse_equivalents(words[0], asked, command_line)


def _is_foreign(word: str) -> bool:
    name = word.partition("=")[0].removeprefix("--")
    return "_" in name or name in EQUIVALENTS


def _refuse_equivalents(verb: str, asked: Sequence[str], command_line: Callable[[str], typer.Typer]) -> None:
    """Raise RecipeError for an option that the command has under another name."""
    params = list(_params(typer.main.get_group(command_line(verb)).commands.get(verb)))
    written = [name for one in params if isinstance(one, TyperOption) for name in (*one.opts, *one.secondary_opts)]
    options = {name.removeprefix("--") for name in written}
    arguments = [(one.metavar or one.name or "").upper() for one in params if isinstance(one, TyperArgument)]
    for word in asked:
        name = word.partition("=")[0].removeprefix("--")
        if name in options or not options:
            continue
        dashed = name.replace("_", "-")
        advice = dashed if dashed in options else _equivalent(dashed, options, arguments)
        if advice is not None:
            said = f"write --{advice}" if advice in options else advice.format(verb=verb)
            raise RecipeError(f"--{name}", f"zephyr {verb} has no such option", said)


def _params(command: object) -> Iterator[object]:
    """The parameters of a command and of the commands in it."""
    if isinstance(command, TyperGroup):
        for one in command.commands.values():
            yield from _params(one)
    elif isinstance(command, TyperCommand):
        yield from command.params


def _equivalent(name: str, options: set[str], arguments: Sequence[str]) -> str | None:
    """The first option that there is of those that mean the same, or a sentence; None for what nobody has."""
    for ours in EQUIVALENTS.get(name, ()):
        found = [one for one in arguments if ours[0] == "<" and one.startswith(ours[1:])]
        if found:
            return f"it is a plain argument: zephyr {{verb}} {found[0]}"
        if ours in options or " " in ours:
            return ours
    return None


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
