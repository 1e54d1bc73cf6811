"""What files of other trainers have in common: flat keys, most of which only have another name here."""

import re
from collections.abc import Mapping
from pathlib import Path

from zephyr.errors import did_you_mean
from zephyr.recipe.handbook import keys as transformers_keys
from zephyr.recipe.handbook.writer import Translation
from zephyr.recipe.problems import Problem, quoted
from zephyr.recipe.section import Plain

_DEVICE = "chosen for the device at hand"
_LOG = "the log is always written"
_ROWS = "how rows are prepared changes no result"
_FOLDER = "finished stages are kept and found again"
_PACKED = "sequences are laid out as prefix trees, never padded, and do not see each other"
# Keys of several trainers that nothing here answers to, each with its reason.
NEEDED_NOWHERE = transformers_keys.LEFT_OUT | {
    "flash_attn": _DEVICE, "tf32": _DEVICE, "fp16_full_eval": _DEVICE, "enable_liger_kernel": _DEVICE,
    "packing": _PACKED, "group_by_length": _PACKED,
    "load_in_8bit": "there is no 8-bit base; load_in_4bit there is",
    "save_strategy": "checkpoints are saved by save_steps and save_seconds",
    "eval_strategy": "held-out rows are evaluated every eval_steps, and at the end",
    "fp16": "float16 is not trained in, bfloat16 is",
    "run_name": "output_dir names the run", "hub_model_id": "deliver.push_to_hub publishes a run",
}  # fmt: skip
# Keys of transformers' arguments that have the same name below `train`.
SAME_BELOW_TRAIN = {
    name: f".{ours}"
    for name, ours in transformers_keys.TRAIN_KEYS.items()
    if name not in ("warmup_ratio", "warmup_steps")
} | {"early_stopping_patience": ".train.early_stopping_patience"}


def name_run(work: Translation, name: str) -> None:
    """Write the name of the run, from the last part of its output folder or of the file."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(work.get("output_dir") or name)).name).strip("-._") or name
    work.put("name", clean, "output_dir", "the run's folder below runs/")
    if work.get("seed") is not None:
        work.put("seed", work.old["seed"], "seed")


def put_all(work: Translation, table: Mapping[str, str]) -> None:
    """Write the keys that only have another name here; null is left out, as the default."""
    for key, ours in table.items():
        if work.get(key) is not None:
            work.put(ours, work.old[key], key)
        else:
            work.leave(key, "null is the default")


def put_batch(work: Translation, each_key: str, each_default: int) -> None:
    """Write the examples of a step: per device, times accumulation, times devices."""
    each, steps = work.number(each_key, each_default), work.number("gradient_accumulation_steps", 1)
    devices = work.number("num_devices", 1)
    assumed = "" if "num_devices" in work.old else ", assumed: say num_devices=N if there were more"
    why = f"{each} x gradient_accumulation_steps {steps} x {devices} device{'s' * (devices > 1)}{assumed}"
    work.put(".train.train_batch_size", each * steps * devices, each_key, why)


def put_schedule(work: Translation) -> None:
    """Write warm-up, limits of steps, saving, evaluation and trackers."""
    steps = work.get("warmup_steps")
    if isinstance(steps, float) and 0 < steps < 1:
        work.put(".train.warmup_ratio", steps, "warmup_steps", "below 1 it is a share of the steps")
        work.leave("warmup_ratio", "warmup_steps says it")
    elif steps:
        work.put(".train.warmup_steps", work.old["warmup_steps"], "warmup_steps")
        work.leave("warmup_ratio", "warmup_steps says it")
    elif work.get("warmup_ratio") is not None:
        work.put(".train.warmup_ratio", work.old["warmup_ratio"], "warmup_ratio")
        work.leave("warmup_steps", "warmup_ratio says it")
    for key in ("max_steps", "eval_steps", "save_steps", "save_total_limit"):
        value = work.get(key)
        if isinstance(value, int) and value >= 1:
            work.put(f".train.{key}", value, key)
        else:
            work.leave(key, "only whole numbers from 1 are counts of steps here")
    patience = next((key for key in ("early_stopping_patience", "early_stopping_steps") if work.get(key)), None)
    if patience is not None:
        watched = str(work.get("metric_for_best_model") or "eval_loss")
        work.put(".train.metric_for_best_model", watched, patience, "the metric that it watches")
    trackers = work.get("report_to")
    named = trackers if isinstance(trackers, list) else [] if trackers in (None, "none", "all") else [trackers]
    if trackers is not None:
        work.put(".train.report_to", list(named), "report_to")


def put_optimizer(work: Translation, key: str) -> None:
    """Write the optimizer; one that is not known is a problem."""
    given = str(work.get(key) or "adamw_torch")
    if given in transformers_keys.OPTIMIZERS:
        ours = transformers_keys.OPTIMIZERS[given]
        work.put(".train.optim", ours, key, "" if ours == given else f"the same steps as {given}")
    else:
        nearest = did_you_mean(given, transformers_keys.OPTIMIZERS).removeprefix("; ")
        work.problems.append(Problem((key,), f"is not known here{quoted(given)}", nearest))


def put_share(work: Translation, key: str) -> None:
    """Write the share of the rows that is held out; a number of rows is a problem."""
    value = work.get(key)
    if isinstance(value, int | float) and 0 < value < 1:
        work.put(".data.eval_share", value, key, "a share of the prompts")
    elif value:
        work.problems.append(Problem((key,), f"is a number of rows{quoted(value)}", "write a share, such as 0.02"))
    else:
        work.leave(key, "0 holds nothing out")


def refuse(work: Translation, key: str, why: str, remedy: str) -> None:
    """Note that a key whose value matters cannot be followed."""
    if work.get(key):
        work.problems.append(Problem((key,), f"{why}{quoted(work.old[key])}", remedy))
    else:
        work.leave(key, "it is off")


def account(work: Translation, left_out: Mapping[str, str], known: set[str]) -> None:
    """Note every key that is left out, with its reason; a key that nobody knows is a problem."""
    told = "\n".join(work.notes)
    faulty = {problem.keys[0] for problem in work.problems}
    for key, value in work.old.items():
        if key in faulty or re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", told):
            continue
        if key in left_out:
            work.leave(key, left_out[key])
        elif key in known:
            work.leave(key, "the other keys say it, or it does not apply to this stage")
        elif value is None:
            work.leave(key, "it is empty")
        elif refused := next((one for one in faulty if _is_option_of(key, str(one), work.old)), None):
            work.leave(key, f"it says more of {refused}")
        else:
            nearest = did_you_mean(key, {*known, *left_out}).removeprefix("; ")
            work.problems.append(Problem((key,), f"there is no such key{quoted(value)}", nearest))


def _is_option_of(key: str, refused: str, old: Mapping[str, Plain]) -> bool:
    """Whether a key nobody knows goes with a refused one: apollo_rank with use_apollo, oft_target with a method oft."""
    stems = (refused.removeprefix("use_").partition("_")[0], str(old.get(refused)))
    return any(stem and key.startswith(f"{stem}_") for stem in stems)


def refuse_adapters(work: Translation, key: str, remedy: str) -> bool:
    """Whether adapters are asked for where whole models are trained alone, which is a problem."""
    if work.stage == "pretrain":
        what = f"adapters are not trained on plain text here{quoted(work.old.get(key))}"
        work.problems.append(Problem((key,), what, remedy))
    return work.stage == "pretrain"


def texts(value: Plain) -> list[str]:
    """The names in a list, or in a text with commas."""
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]
