"""axolotl's YAML files, for SFT, pretraining on text, DPO, IPO, ORPO, SimPO and KTO.

Source: the options of axolotl's documentation (docs.axolotl.ai, config reference).
"""

from pathlib import Path

from zephyr.recipe.handbook.translating import Translated
from zephyr.recipe.handbook.writer import Translation
from zephyr.recipe.imports import flat
from zephyr.recipe.outline import Keys
from zephyr.recipe.problems import Problem, broken, quoted
from zephyr.recipe.section import Plain

MARKERS = ("base_model", "micro_batch_size", "sequence_len", "sample_packing")
_OBJECTIVES = {
    "dpo": {"name": "dpo"},
    "ipo": {"name": "dpo", "loss_type": "ipo"},
    "orpo": {"name": "orpo"},
    "simpo": {"name": "simpo"},
    "kto": {"name": "kto"},
}
_TEMPLATES = {"tokenizer_default": "own", "chatml": "chatml", "llama3": "llama3", "zephyr": "zephyr"}
_TABLE = flat.SAME_BELOW_TRAIN | {
    "num_epochs": ".train.num_train_epochs",
    "sequence_len": ".data.max_length",
    "shuffle_merged_datasets": ".data.shuffle",
}
_LORA = {
    "lora_r": ".lora.r", "lora_dropout": ".lora.lora_dropout", "lora_alpha": ".lora.lora_alpha",
    "lora_modules_to_save": ".lora.modules_to_save",
    "peft_use_dora": ".lora.use_dora", "peft_use_rslora": ".lora.use_rslora",
    "peft_layers_to_transform": ".lora.layers_to_transform", "loraplus_lr_ratio": ".lora.loraplus_lr_ratio",
}  # fmt: skip
_PACKED = "sequences are laid out as prefix trees, never padded, and do not see each other"
_KERNEL = "kernels are chosen for the device at hand"
_COMMANDS = "evaluate and save by steps: eval_steps, save_steps"
_LEFT_OUT = flat.NEEDED_NOWHERE | {
    "model_type": "transformers detects it", "tokenizer_type": "transformers detects it",
    "is_llama_derived_model": "transformers detects it", "tokenizer_config": "the model's own tokenizer is used",
    "sample_packing": _PACKED, "eval_sample_packing": _PACKED, "pad_to_sequence_len": _PACKED,
    "multipack_real_batches": _PACKED, "sample_packing_eff_est": _PACKED, "sample_packing_group_size": _PACKED,
    "flash_attention": _KERNEL, "xformers_attention": _KERNEL, "sdp_attention": _KERNEL, "s2_attention": _KERNEL,
    "flex_attention": _KERNEL, "plugins": _KERNEL, "liger_rope": _KERNEL, "liger_rms_norm": _KERNEL,
    "liger_glu_activation": _KERNEL, "liger_layer_norm": _KERNEL, "liger_fused_linear_cross_entropy": _KERNEL,
    "cut_cross_entropy": _KERNEL, "lora_mlp_kernel": _KERNEL, "lora_qkv_kernel": _KERNEL, "lora_o_kernel": _KERNEL,
    "evals_per_epoch": _COMMANDS, "saves_per_epoch": _COMMANDS, "eval_table_size": "the report shows samples",
    "eval_max_new_tokens": "the report shows samples", "dataset_prepared_path": "tokens lie in the stage's folder",
    "dataset_processes": "how rows are prepared changes no result",
    "dataloader_prefetch_factor": "how rows are prepared changes no result",
    "lora_fan_in_fan_out": "peft detects it", "lora_on_cpu": "chosen for the device at hand",
    "special_tokens": "the tokenizer keeps its own; the chat template knows its stop token",
    "strict": "every recipe is strict", "debug": "a run is inspected by `zephyr inspect`",
    "local_rank": "torchrun says it",
    "wandb_entity": "set WANDB_ENTITY", "wandb_watch": "wandb gets the metrics alone",
    "wandb_log_model": "nothing is published",
    "wandb_name": "the recipe's name is the run's", "wandb_run_id": "a resumed run keeps its id",
    "auto_resume_from_checkpoints": "a run always goes on", "hub_strategy": "deliver.push_to_hub publishes a run",
    "chat_template_jinja": "write chat_template: {name: file, path: ...}",
    "dataset_exact_deduplication": "write data.filters: [{name: duplicates, threshold: 1}]",
}  # fmt: skip
_WORKED_OUT = {
    "base_model", "base_model_config", "revision_of_model", "rl", "rl_beta", "dpo_beta", "orpo_alpha", "simpo_gamma",
    "cpo_alpha", "kto_desirable_weight", "kto_undesirable_weight", "rpo_alpha", "dpo_label_smoothing", "datasets",
    "test_datasets", "pretraining_dataset", "val_set_size", "output_dir", "adapter", "lora_target_linear",
    "lora_target_modules", "lora_model_dir", "load_in_4bit", "micro_batch_size", "gradient_accumulation_steps",
    "num_devices", "optimizer", "lr_scheduler", "cosine_min_lr_ratio", "warmup_steps", "warmup_ratio", "max_steps",
    "eval_steps", "save_steps", "save_total_limit", "report_to", "train_on_inputs", "bf16", "bfloat16", "chat_template",
    "seed", "wandb_project", "use_wandb", "roles_to_train", "excess_length_strategy", "unfrozen_parameters",
}  # fmt: skip
KEYS = {*_TABLE, *_LORA, *_LEFT_OUT, *_WORKED_OUT}


def translate_axolotl(old: dict[str, Plain], file: Path, places: dict[Keys, str]) -> Translated:
    """The recipe that an axolotl file translates to. Raises RecipeError with all that cannot be translated."""
    work = Translation(old, file)
    rl = str(work.get("rl") or "")
    texts = [one for one in _datasets(work, "datasets") if str(one.get("type")) == "completion"]
    work.stage = "align" if rl else "pretrain" if texts else "sft"
    work.notes.append(f"the stage is {work.stage}, detected by rl and the types of datasets")
    flat.name_run(work, file.stem)
    work.put("model.kind", "pretrained", "base_model")
    work.put("model.name_or_path", work.get("base_model"), "base_model")
    if work.get("revision_of_model") is not None:
        work.put("model.revision", work.old["revision_of_model"], "revision_of_model")
    _template(work)
    _rows(work)
    flat.put_all(work, _TABLE)
    flat.put_batch(work, "micro_batch_size", 1)
    flat.put_schedule(work)
    flat.put_optimizer(work, "optimizer")
    _training(work)
    if rl:
        _objective(work, rl)
    _adapters(work)
    flat.refuse(work, "pretraining_dataset", "streams rows here by data.sources", "write them under datasets")
    flat.refuse(work, "unfrozen_parameters", "parts of a model are not frozen here", "train adapters: adapter: lora")
    flat.account(work, _LEFT_OUT, KEYS)
    if work.problems:
        raise broken(str(file), work.problems, places)
    return Translated(work.data, work.origins, work.notes)


def _datasets(work: Translation, key: str) -> list[dict[str, Plain]]:
    listed = work.get(key)
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _template(work: Translation) -> None:
    if work.stage == "pretrain":
        work.leave("chat_template", "plain text has no layout")
        return
    given = str(work.get("chat_template") or "tokenizer_default").removesuffix("_fallback_chatml")
    why = "" if given in _TEMPLATES else f"{given}: the template of the model's own tokenizer is used"
    work.put("chat_template.name", _TEMPLATES.get(given, "own"), "chat_template", why)


def _rows(work: Translation) -> None:
    """What is trained on and held out; the format of rows is detected."""
    for key, ours in (("datasets", ".data.sources"), ("test_datasets", ".data.eval_sources")):
        found: list[Plain] = []
        for one in _datasets(work, key):
            source: dict[str, Plain] = {"path": one.get("path"), "split": one.get("split") or "train"}
            if one.get("ds_type") and one.get("data_files"):
                source["path"] = flat.texts(one["data_files"])[0]
            source |= {"config": one["name"]} if one.get("name") else {}
            if one.get("field_messages") not in (None, "messages", "conversations"):
                source["columns"] = {"messages": one["field_messages"]}
            found.append(source)
        if found:
            why = "the format of its rows is detected: type, ds_type and field_* are not needed"
            work.put(ours, found, key, why)
    if not _datasets(work, "datasets"):
        work.problems.append(Problem(("datasets",), "is missing", "list them as - path: ..."))
    flat.put_share(work, "val_set_size")
    rule = "keep_start" if work.get("excess_length_strategy") == "truncate" else "drop"
    why = "" if rule == "keep_start" else "axolotl drops rows longer than sequence_len"
    work.put(".data.truncation.rule", rule, "excess_length_strategy", why)


def _training(work: Translation) -> None:
    scheduler, least = str(work.get("lr_scheduler") or "cosine"), work.get("cosine_min_lr_ratio")
    if scheduler == "cosine" and least is not None:
        work.put(".train.lr_scheduler_type", "cosine_with_min_lr", "lr_scheduler", "with cosine_min_lr_ratio")
        work.put(".train.min_lr_ratio", least, "cosine_min_lr_ratio")
    else:
        work.put(".train.lr_scheduler_type", scheduler, "lr_scheduler")
    brain = work.get("bf16", "bfloat16")
    work.put(".train.precision", "float32" if brain is False and not work.get("fp16") else "bf16", "bf16")
    if work.stage == "sft":
        every = work.get("train_on_inputs") is True
        work.put(".objective.loss_on", "everything" if every else "assistant", "train_on_inputs")
    if "report_to" not in work.old and (work.get("wandb_project") or work.get("use_wandb")):
        work.put(".train.report_to", ["wandb"], "wandb_project", "its project is zephyr")


def _objective(work: Translation, rl: str) -> None:
    chosen = _OBJECTIVES.get(rl)
    if chosen is None:
        work.problems.append(Problem(("rl",), f"is not known here{quoted(rl)}", f"choose {', '.join(_OBJECTIVES)}"))
        return
    for name, value in chosen.items():
        work.put(f".objective.{name}", value, "rl")
    beta_key = next((key for key in ("orpo_alpha", "dpo_beta", "rl_beta") if work.get(key) is not None), "")
    beta = work.old[beta_key] if beta_key else {"orpo": 0.1, "simpo": 2.0}.get(rl, 0.1)
    work.put(".objective.beta", beta, beta_key or "rl_beta", "" if beta_key else "the default")
    margin = work.get("simpo_gamma")
    if rl == "simpo" and isinstance(margin, int | float) and isinstance(beta, int | float) and beta > 0:
        work.put(".objective.gamma_beta_ratio", margin / beta, "simpo_gamma", "divided by beta")
    own = {
        "simpo": {"cpo_alpha": "sft_weight"},
        "kto": {"kto_desirable_weight": "desirable_weight", "kto_undesirable_weight": "undesirable_weight"},
        "dpo": {"rpo_alpha": "rpo_alpha", "dpo_label_smoothing": "label_smoothing"},
    }
    for key, name in own.get(rl, {}).items():
        if work.get(key) is not None:
            work.put(f".objective.{name}", work.old[key], key)


def _adapters(work: Translation) -> None:
    kind = work.get("adapter")
    if kind not in ("lora", "qlora"):
        if kind:
            work.problems.append(Problem(("adapter",), f"is not known here{quoted(kind)}", "write lora or qlora"))
        for key in _LORA:
            work.leave(key, "adapter is not set")
        return
    flat.put_all(work, _LORA)
    targets = work.get("lora_target_modules")
    everywhere = work.get("lora_target_linear") is True or targets in (None, "all-linear")
    key = "lora_target_linear" if everywhere else "lora_target_modules"
    named: list[Plain] = [*flat.texts(targets)]
    work.put(".lora.target_modules", "all-linear" if everywhere else named, key)
    if kind == "qlora" or work.get("load_in_4bit") is True:
        work.put(".lora.load_in_4bit", True, "load_in_4bit" if work.get("load_in_4bit") else "adapter")
    flat.refuse(work, "lora_model_dir", "goes on with adapters", "merge them first, and name the merged model")
