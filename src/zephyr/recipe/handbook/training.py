"""The training arguments of a handbook's recipe: hyper-parameters, evaluation, objective, adapters."""

from zephyr.errors import did_you_mean
from zephyr.recipe.handbook import keys as known
from zephyr.recipe.handbook.writer import Translation
from zephyr.recipe.problems import Problem, quoted
from zephyr.recipe.section import Plain

# Keys that belong to the trainer of one objective.
_OBJECTIVES_BY_KEY = {
    "gamma_beta_ratio": "simpo",
    "simpo_gamma": "simpo",
    "cpo_alpha": "cpo",
    "tpo_alpha": "tpo",
    "tpo_l_gamma": "tpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}
# TRL's names of losses that are called something else here.
_OUR_LOSSES = {"simpo": "sigmoid", "alphapo": "sigmoid", "tpo-l": "tpo_l"}
_SIMPO_OF_CPO = ("simpo", "alphapo")
_CHECKPOINT_EVERY = 100


def translate_training(work: Translation) -> None:
    """Write the hyper-parameters that have a name of their own."""
    unused = "warmup_ratio" if work.get("warmup_steps") else "warmup_steps"
    work.leave(unused, "the other of warmup_ratio and warmup_steps says it")
    warm_up = work.get("warmup_steps")
    is_share = isinstance(warm_up, float) and 0 < warm_up < 1
    if is_share:
        work.put(".train.warmup_ratio", warm_up, "warmup_steps", "below 1 it is a share of the steps")
    for key, new in known.TRAIN_KEYS.items():
        if work.old.get(key) is not None and key != unused and not (is_share and key == "warmup_steps"):
            work.put(f".{new}", work.old[key], key)
    if "num_train_epochs" not in work.old:
        work.put(".train.num_train_epochs", 3, "num_train_epochs", "transformers' default")
    if work.get("max_steps") in (None, -1):
        work.leave("max_steps", "-1 is no limit")
    else:
        work.put(".train.max_steps", work.old["max_steps"], "max_steps")
    given = work.get("lr_scheduler_kwargs")
    for key, value in given.items() if isinstance(given, dict) else ():
        ours = known.SCHEDULE_KEYS.get(str(work.get("lr_scheduler_type")), {}).get(key)
        if ours is not None:
            work.put(f".train.{ours}", value, "lr_scheduler_kwargs")
        else:
            work.notes.append(f"lr_scheduler_kwargs.{key} is left out: the schedule here has no such setting")
    brain, half = work.old.get("bf16") is True, work.old.get("fp16") is True
    work.put(".train.precision", "bf16" if brain or half else "float32", "fp16" if half and not brain else "bf16")
    work.leave("fp16", "float16 is not trained in, bfloat16 is")
    _translate_optimizer(work)


def _translate_optimizer(work: Translation) -> None:
    given = work.get("optim")
    if given is None:
        # The handbook's own DPOConfig named rmsprop until 2025; its other classes kept transformers' default.
        name = "rmsprop" if work.stage == "align" and work.rendered and not work.named("orpo") else "adamw_torch"
        work.put(".train.optim", name, "optim", "the default of the handbook at that time")
    elif str(given) in known.OPTIMIZERS:
        name = known.OPTIMIZERS[str(given)]
        work.put(".train.optim", name, "optim", "" if name == given else f"the same steps as {given}")
    else:
        nearest = did_you_mean(str(given), known.OPTIMIZERS).removeprefix("; ")
        work.problems.append(Problem(("optim",), f"is not known here{quoted(given)}", nearest))


def asks_for_evaluation(work: Translation) -> bool:
    """Whether the old recipe evaluates at all."""
    when = work.get("eval_strategy", "evaluation_strategy")
    return work.get("do_eval") is True or when not in (None, "no", False)


def translate_evaluation(work: Translation) -> None:
    """Write when to evaluate and to save, and where to report."""
    every = work.get("eval_steps") if asks_for_evaluation(work) else None
    said = [key for key in ("do_eval", "eval_strategy", "evaluation_strategy") if key in work.old]
    if work.get("eval_strategy", "evaluation_strategy") == "steps" and isinstance(every, int):
        work.put(".train.eval_steps", every, "eval_steps", " and ".join(said))
    else:
        measured = "measured at the end" if asks_for_evaluation(work) else "not measured"
        work.notes.append(f"{', '.join(said) or 'no eval_strategy'} -> held-out rows are {measured}")
        work.leave("eval_steps", "the file does not evaluate by steps")
    steps, saves = work.get("save_steps"), work.get("save_strategy")
    if saves == "steps" and isinstance(steps, int) and steps >= 1:
        work.put(".train.save_steps", steps, "save_steps", "save_strategy steps")
    else:
        why = f"for save_strategy {saves}, so that a killed run can go on"
        work.put(".train.save_steps", _CHECKPOINT_EVERY, "save_steps", why)
    if work.get("save_total_limit") is not None:
        work.put(".train.save_total_limit", work.old["save_total_limit"], "save_total_limit")
    _translate_best(work)
    trackers = work.get("report_to")
    named = trackers if isinstance(trackers, list) else [trackers]
    if trackers is not None:
        kept: list[Plain] = [name for name in named if name not in ("none", "all")]
        work.put(".train.report_to", kept, "report_to")


def _translate_best(work: Translation) -> None:
    """The checkpoint to keep, set by two keys, and a third with its own default."""
    if work.get("load_best_model_at_end") is not True:
        for key in ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"):
            work.leave(key, "the last checkpoint is kept")
        return
    metric = str(work.get("metric_for_best_model") or "loss")
    work.put(".train.metric_for_best_model", metric, "load_best_model_at_end", "metric_for_best_model")
    given = work.get("greater_is_better")
    if given is not None:
        work.put(".train.greater_is_better", given, "greater_is_better")


def _merge_losses(work: Translation) -> None:
    """Make one value of TRL's list of losses, with their weights where there are several."""
    losses = work.get("loss_type")
    if isinstance(losses, list):
        weights = work.get("loss_weights")
        parts = weights if isinstance(weights, list) and len(weights) == len(losses) else [1.0] * len(losses)
        weighted: dict[str, Plain] = dict(zip(map(str, losses), parts, strict=True))
        work.old["loss_type"] = weighted if len(losses) > 1 else losses[0]
        work.leave("loss_weights", "loss_type has them")


def translate_objective(work: Translation) -> None:
    """Write the objective."""
    _merge_losses(work)
    by_key = next((name for key, name in _OBJECTIVES_BY_KEY.items() if work.old.get(key) is not None), None)
    name = by_key or ("orpo" if work.named("orpo") else "dpo")
    is_simpo_of_cpo = work.old.get("loss_type") in _SIMPO_OF_CPO
    name = "simpo" if is_simpo_of_cpo else name
    work.put(".objective.name", name, "beta", "detected by the keys and names of the file")
    for key, new in known.OBJECTIVE_KEYS.items():
        value = work.get(key)
        if value is None:
            work.leave(key, "null is the default")
        elif key.startswith("ref_model_") and work.get("sync_ref_model") is not True:
            work.leave(key, "sync_ref_model is not on")
        elif key == "loss_type" and name == "orpo":
            work.leave(key, f"{name} has one loss")
        elif key == "cpo_alpha" and name == "simpo":
            work.put(".objective.sft_weight", value, key)
        else:
            work.put(f".{new}", _OUR_LOSSES.get(str(value), value) if key == "loss_type" else value, key)
    if work.get("label_smoothing"):
        work.put(".objective.label_smoothing", work.old["label_smoothing"], "label_smoothing")
    else:
        work.leave("label_smoothing", "0 is the default")
    if is_simpo_of_cpo and work.old.get("cpo_alpha") is None:
        weight = 0.0 if work.old["loss_type"] == "alphapo" else 1.0
        work.put(".objective.sft_weight", weight, "loss_type", "the default of TRL's CPOTrainer")
    margin, beta = work.get("simpo_gamma"), work.old.get("beta", 0.1)
    if is_simpo_of_cpo and margin is None:
        margin = 0.5  # the default of TRL's CPOTrainer
    if isinstance(margin, int | float) and isinstance(beta, int | float) and beta > 0:
        work.put(".objective.gamma_beta_ratio", margin / beta, "simpo_gamma", "divided by beta")
    if name == "dpo" and work.rendered:
        work.notes.append("end-of-sequence tokens inside prompts are attended to; TRL 0.7.2 to 0.7.4 hid them")


def translate_adapters(work: Translation) -> None:
    """Write LoRA's settings, if the recipe trains adapters."""
    if work.get("use_peft") is not True:
        for key in known.LORA_KEYS:
            work.leave(key, "use_peft is not true")
        return
    if work.stage == "pretrain":
        work.problems.append(Problem(("use_peft",), "cannot be followed in pretraining", "train all weights"))
        return
    work.notes.append(f"use_peft -> {work.stage}.lora")
    for key, new in known.LORA_KEYS.items():
        if work.get(key) is not None:
            work.put(f".{new}", work.old[key], key)
    if "lora_alpha" not in work.old:
        work.put(".lora.lora_alpha", 32, "lora_alpha", "the handbook's default")
    if "lora_target_modules" not in work.old:
        work.put(".lora.target_modules", ["q_proj", "v_proj"], "lora_target_modules", "peft's default")
