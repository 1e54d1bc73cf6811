"""LLaMA-Factory's YAML files, for pretraining, SFT, reward models, DPO and its variants, and KTO.

Its data sets are named in `dataset_info.json`, which is read where it lies. Source: its README and hparams.
"""

import json
from pathlib import Path

from zephyr.recipe.handbook.translating import Translated
from zephyr.recipe.handbook.writer import Translation
from zephyr.recipe.imports import flat
from zephyr.recipe.outline import Keys
from zephyr.recipe.problems import Problem, broken, quoted
from zephyr.recipe.section import Plain

MARKERS = ("finetuning_type", "cutoff_len", "dataset_dir", "template")
INFO = "dataset_info.json"
_STAGES = {"pt": "pretrain", "sft": "sft", "rm": "reward", "dpo": "align", "kto": "align"}
_TEMPLATES = {"llama3": "llama3", "chatml": "chatml", "qwen": "chatml", "zephyr": "zephyr"}
_PAIR_LOSSES = {
    "sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "kto_pair": "kto_pair", "robust": "robust",
    "bco_pair": "bco_pair",
}  # fmt: skip
TABLE = flat.SAME_BELOW_TRAIN | {
    "cutoff_len": ".data.max_length", "moe_aux_loss_coef": ".train.router_aux_loss_coef",
    "early_stopping_steps": ".train.early_stopping_patience",
}  # fmt: skip
LORA = {
    "lora_rank": ".lora.r", "lora_dropout": ".lora.lora_dropout", "lora_alpha": ".lora.lora_alpha",
    "use_rslora": ".lora.use_rslora",
    "use_dora": ".lora.use_dora", "loraplus_lr_ratio": ".lora.loraplus_lr_ratio",
}  # fmt: skip
_KERNEL = "kernels are chosen for the device at hand"
_TOKENIZER = "the model's own tokenizer is used"
_SAMPLED = "name tasks under evaluate, or look at samples in the report"
_TRACKER = "name trackers in report_to; their own variables say the rest"
_SERVED = "`zephyr serve` and `zephyr chat` have options of their own"
_EXPORTED = "the stage's folder has the merged model; `zephyr export` quantizes it"
_MEDIA = "models read text alone"
_ROWS = "how rows are prepared changes no result"
UNNEEDED = flat.NEEDED_NOWHERE | {
    "overwrite_cache": "tokens are kept by the content of rows and settings",
    "tokenized_path": "tokens lie in the stage's folder",
    "plot_loss": "the report has the curves", "neat_packing": "sequences are laid out as prefix trees",
    "include_tokens_per_second": "the log is always written", "do_eval": "held-out rows are evaluated at the end",
    "do_predict": "name tasks under evaluate", "predict_with_generate": "name tasks under evaluate",
    "quantization_method": "4-bit bases are nf4 of bitsandbytes",
    "double_quantization": "4-bit bases are doubly quantised",
    "upcast_layernorm": "weights are kept in float32", "use_unsloth": _KERNEL, "use_unsloth_gc": _KERNEL,
    "shift_attn": _KERNEL, "flash_attn": _KERNEL, "low_cpu_mem_usage": "weights are streamed from their files",
    "ref_model_quantization_bit": "the reference is the model as it starts",
    "create_new_adapter": "new adapters are trained",
    "export_dir": "the stage's folder has the merged model", "logging_dir": "the log is always written",
    "disable_shuffling": "write data.shuffle: false", "streaming": "local files are always streamed",
    "buffer_size": "rows are shuffled whole", "enable_thinking": "write chat_template.variables",
    "resume_from_checkpoint": "a run always goes on", "cache_dir": "set HF_HOME",
    "dataset_shards": "rows are read once", "preprocessing_batch_size": _ROWS, "data_shared_file_system": _ROWS,
    "ignore_pad_token_for_loss": "nothing is padded", "default_system": "write system messages into the rows",
    "tool_format": "the chat template lays out tools", "preserve_thinking": "the chat template lays out reasoning",
    "eval_on_each_dataset": "the report counts rows by source", "eval_num_beams": _SAMPLED, "media_dir": _MEDIA,
    "do_sample": _SAMPLED, "temperature": _SAMPLED, "top_p": _SAMPLED, "top_k": _SAMPLED, "num_beams": _SAMPLED,
    "max_new_tokens": _SAMPLED, "repetition_penalty": _SAMPLED, "length_penalty": _SAMPLED, "max_length": _SAMPLED,
    "skip_special_tokens": _SAMPLED, "compute_accuracy": "accuracies of pairs are always logged",
    "use_swanlab": _TRACKER, "swanlab_project": _TRACKER, "swanlab_run_name": _TRACKER, "swanlab_mode": _TRACKER,
    "swanlab_workspace": _TRACKER, "swanlab_api_key": _TRACKER, "swanlab_logdir": _TRACKER,
    "infer_backend": _SERVED, "infer_dtype": _SERVED, "vllm_maxlen": _SERVED, "vllm_gpu_util": _SERVED,
    "vllm_enforce_eager": _SERVED, "vllm_max_lora_rank": _SERVED, "vllm_config": _SERVED, "use_kv_cache": _SERVED,
    "export_size": _EXPORTED, "export_device": _EXPORTED, "export_quantization_bit": _EXPORTED,
    "export_quantization_dataset": _EXPORTED, "export_legacy_format": _EXPORTED, "export_hub_model_id": _EXPORTED,
    "adapter_folder": "adapters lie beside the merged model", "offload_folder": "weights are streamed from their files",
    "use_fast_tokenizer": _TOKENIZER, "split_special_tokens": _TOKENIZER, "init_special_tokens": _TOKENIZER,
    "hf_hub_token": "set HF_TOKEN", "ms_hub_token": "models come from the Hugging Face hub",
    "om_hub_token": "models come from the Hugging Face hub", "print_param_status": "`zephyr plan` lists it",
    "use_reentrant_gc": "there is one kind of activation checkpointing", "upcast_lmhead_output": "logits are float32",
    "quantization_type": "4-bit bases are nf4 of bitsandbytes", "quantization_device_map": "chosen for the device",
    "video_fps": _MEDIA, "video_maxlen": _MEDIA, "image_resolution": _MEDIA, "video_resolution": _MEDIA,
    "use_v1_kernels": _KERNEL, "fsdp_transformer_layer_cls_to_wrap": "fully_shard wraps each layer by itself",
    "freeze_vision_tower": _MEDIA, "freeze_multi_modal_projector": _MEDIA, "freeze_language_model": _MEDIA,
    "image_max_pixels": _MEDIA, "image_min_pixels": _MEDIA, "video_max_pixels": _MEDIA, "video_min_pixels": _MEDIA,
    "include_effective_tokens_per_second": "the log is always written", "ray_num_workers": "torchrun starts the ranks",
    "device_map": "chosen for the device at hand",
    "export_quantization_maxlen": _EXPORTED, "export_quantization_nsamples": _EXPORTED,
}  # fmt: skip
# What changes what is learnt and has no counterpart here.
REFUSED = {
    "mask_history": ("learns the last answer alone", "write weight: 0 into earlier messages of the rows"),
    "use_galore": ("is another optimizer", "choose one of optim, such as adamw_8bit"),
    "use_badam": ("is another optimizer", "choose one of optim, such as adamw_8bit"),
    "use_apollo": ("is another optimizer", "choose one of optim, such as adamw_8bit"),
    "use_adam_mini": ("is another optimizer", "choose one of optim, such as adamw_8bit"),
    "use_muon": ("is another optimizer", "choose one of optim, such as adamw_8bit"),
    "ref_model": ("the reference is the model as it starts", "leave it out"),
    "ref_model_adapters": ("the reference is the model as it starts", "leave it out"),
    "use_llama_pro": ("blocks are not added", "train adapters: finetuning_type: lora"),
    "pissa_init": ("adapters begin at zero", "leave it out"),
    "loraplus_lr_embedding": ("all weights but those of LoRA+ have one learning rate", "leave it out"),
    "use_dft_loss": ("is another loss", "leave it out"), "use_asft_loss": ("is another loss", "leave it out"),
    "use_eaft_loss": ("is another loss", "leave it out"),
    "pref_bco_weight": ("losses with weights are one mapping here", "write loss_type: {sigmoid: 1.0, bco_pair: ...}"),
    "mixture_of_depths": ("layers are not skipped", "leave it out"),
    "resize_vocab": ("the tokenizer keeps its tokens", "name a model whose tokenizer has them"),
    "add_tokens": ("the tokenizer keeps its tokens", "name a model whose tokenizer has them"),
    "add_special_tokens": ("the tokenizer keeps its tokens", "name a model whose tokenizer has them"),
    "rope_scaling": ("positions are those of the model", "write it into the model's config.json"),
    "train_from_scratch": ("a new model is model.kind: new", "write a recipe with one"),
    "fp8": ("float8 is not trained in", "leave it out: bfloat16 is"),
    "use_kt": ("experts are not trained on the processor", "leave it out"),
    "use_hyper_parallel": ("rows are not cut over devices", "leave it out"),
    "use_megatron_bridge": ("torchrun's world is sharded by fully_shard", "leave it out"),
    "use_mca": ("torchrun's world is sharded by fully_shard", "leave it out"),
}  # fmt: skip
_WORKED_OUT = {
    "model_name_or_path", "model_revision", "adapter_name_or_path", "stage", "finetuning_type", "lora_target",
    "additional_target", "quantization_bit", "pref_beta", "pref_loss", "pref_ftx", "simpo_gamma", "dpo_label_smoothing",
    "kto_chosen_weight", "kto_rejected_weight", "reward_model", "dataset", "eval_dataset", "dataset_dir",
    "val_size", "template", "max_samples", "train_on_prompt", "output_dir", "report_to",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_devices", "warmup_ratio", "warmup_steps",
    "max_steps", "eval_steps", "save_steps", "save_total_limit", "optim", "bf16", "pure_bf16", "seed", "ld_alpha",
    "disable_gradient_checkpointing", "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules",
    "mix_strategy", "metric_for_best_model",
    "interleave_probs",
}  # fmt: skip
KEYS = {*TABLE, *LORA, *UNNEEDED, *_WORKED_OUT, *REFUSED}


def translate_llama_factory(old: dict[str, Plain], file: Path, places: dict[Keys, str]) -> Translated:
    """The recipe that a LLaMA-Factory file translates to. Raises RecipeError with all that cannot be translated."""
    work = Translation(old, file)
    given = str(work.get("stage") or "sft")
    work.stage = _STAGES.get(given, "sft")
    if given not in _STAGES:
        work.problems.append(Problem(("stage",), f"is not known here{quoted(given)}", f"choose {', '.join(_STAGES)}"))
    work.notes.append(f"stage {given} -> {work.stage}")
    flat.name_run(work, file.stem)
    work.put("model.kind", "pretrained", "model_name_or_path")
    work.put("model.name_or_path", work.get("model_name_or_path"), "model_name_or_path")
    if work.get("model_revision") not in (None, "main"):
        work.put("model.revision", work.old["model_revision"], "model_revision")
    if work.stage != "pretrain":
        name = _TEMPLATES.get(str(work.get("template")), "own")
        work.put("chat_template.name", name, "template", "" if name != "own" else "that of the model's own tokenizer")
    _rows(work, file)
    flat.put_all(work, TABLE)
    if "num_train_epochs" not in work.old:
        work.put(".train.num_train_epochs", 3, "num_train_epochs", "transformers' default")
    if "learning_rate" not in work.old:
        work.put(".train.learning_rate", 5.0e-5, "learning_rate", "transformers' default")
    if "cutoff_len" not in work.old:
        work.put(".data.max_length", 2048, "cutoff_len", "its default")
    flat.put_batch(work, "per_device_train_batch_size", 8)
    flat.put_schedule(work)
    flat.put_optimizer(work, "optim")
    _training(work)
    if work.stage == "align":
        _objective(work, given)
    _adapters(work)
    for key, (why, remedy) in REFUSED.items():
        flat.refuse(work, key, why, remedy)
    flat.account(work, UNNEEDED, KEYS)
    if work.problems:
        raise broken(str(file), work.problems, places)
    return Translated(work.data, work.origins, work.notes)


def _rows(work: Translation, file: Path) -> None:
    """The data sets that the file names, looked up in `dataset_info.json`."""
    folder = Path(str(work.get("dataset_dir") or "data"))
    places = [folder / INFO, file.parent / folder / INFO]
    info = next((place for place in places if place.is_file()), None)
    try:
        known = json.loads(info.read_bytes()) if info is not None else {}
    except ValueError:
        known = {}
    for key, ours in (("dataset", ".data.sources"), ("eval_dataset", ".data.eval_sources")):
        names = flat.texts(work.get(key))
        found = [_source(work, key, name, known, info) for name in names]
        if names:
            work.put(ours, [one for one in found if one], key, f"as {info or INFO} says")
    if not flat.texts(work.get("dataset")):
        work.problems.append(Problem(("dataset",), "is missing", f"name data sets of {INFO}"))
    work.leave("dataset_dir", "paths are written out")
    flat.put_share(work, "val_size")


def _source(work: Translation, key: str, name: str, known: object, info: Path | None) -> dict[str, Plain]:
    entry = known.get(name) if isinstance(known, dict) else None
    if not isinstance(entry, dict):
        where = f"is not in {info}" if info is not None else f"stands in a {INFO} that is not in dataset_dir"
        work.problems.append(Problem((key,), f"{name} {where}", "name the folder of that file as dataset_dir"))
        return {}
    hub, local = entry.get("hf_hub_url"), entry.get("file_name")
    path = str(hub or "") if local is None or info is None else str((info.parent / str(local)).resolve())
    source: dict[str, Plain] = {"path": path or name, "split": str(entry.get("split") or "train")}
    source |= {"config": str(entry["subset"])} if entry.get("subset") else {}
    columns = entry.get("columns")
    renamed = {
        "prompt": "instruction", "query": "input", "response": "output", "messages": "messages", "chosen": "chosen",
        "rejected": "rejected", "kto_tag": "label", "system": "system", "tools": "tools",
    }  # fmt: skip
    if entry.get("ranking") or (isinstance(columns, dict) and "kto_tag" in columns):
        renamed |= {"prompt": "prompt", "response": "completion"}
    pairs = columns.items() if isinstance(columns, dict) else ()
    columns_here: dict[str, Plain] = {
        renamed[ours]: theirs
        for ours, theirs in pairs
        if ours in renamed and theirs not in (renamed[ours], "conversations")
    }
    source |= {"columns": columns_here} if columns_here else {}
    most = work.get("max_samples")
    if isinstance(most, int):
        source["max_rows"] = most
        work.notes.append(f"max_samples -> max_rows {most} of {name}")
    return source


def _training(work: Translation) -> None:
    pure, brain = work.get("pure_bf16") is True, work.get("bf16") is True or work.get("fp16") is True
    precision = "pure_bf16" if pure else "bf16" if brain else "float32"
    work.put(".train.precision", precision, "pure_bf16" if pure else "bf16")
    if work.stage != "pretrain" or "disable_gradient_checkpointing" in work.old:
        on = work.get("disable_gradient_checkpointing") is not True
        work.put(".train.activation_checkpointing", on, "disable_gradient_checkpointing", "on by default there")
    if work.stage == "sft":
        every = work.get("train_on_prompt") is True
        work.put(".objective.loss_on", "everything" if every else "assistant", "train_on_prompt")


def _objective(work: Translation, stage: str) -> None:
    loss = str(work.get("pref_loss") or "sigmoid")
    name = "kto" if stage == "kto" else loss if loss in ("orpo", "simpo") else "dpo"
    work.put(".objective.name", name, "stage" if name in ("kto", "dpo") else "pref_loss")
    if name == "dpo" and loss in _PAIR_LOSSES:
        work.put(".objective.loss_type", _PAIR_LOSSES[loss], "pref_loss")
    elif name == "dpo":
        choices = ", ".join([*_PAIR_LOSSES, "orpo", "simpo"])
        work.problems.append(Problem(("pref_loss",), f"is not known here{quoted(loss)}", f"choose {choices}"))
    beta = work.get("pref_beta")
    work.put(".objective.beta", 0.1 if beta is None else beta, "pref_beta", "" if beta is not None else "its default")
    margin, scale = work.get("simpo_gamma"), beta or 0.1
    if name == "simpo" and isinstance(scale, int | float):
        ratio = (margin if isinstance(margin, int | float) else 0.5) / scale
        work.put(".objective.gamma_beta_ratio", ratio, "simpo_gamma", "divided by pref_beta")
    own = {
        "dpo": {"pref_ftx": "rpo_alpha", "dpo_label_smoothing": "label_smoothing", "ld_alpha": "ld_alpha"},
        "kto": {"kto_chosen_weight": "desirable_weight", "kto_rejected_weight": "undesirable_weight"},
    }
    for key, ours in own.get(name, {}).items():
        if work.get(key):
            work.put(f".objective.{ours}", work.old[key], key)


def _adapters(work: Translation) -> None:
    kind = str(work.get("finetuning_type") or "lora")
    flat.refuse(work, "adapter_name_or_path", "goes on with adapters", "merge them first, and name the merged model")
    if kind == "full":
        for key in (*LORA, "lora_target"):
            work.leave(key, "finetuning_type is full")
        work.notes.append("finetuning_type full -> all weights are trained")
        return
    if kind != "lora":
        work.problems.append(Problem(("finetuning_type",), f"is not known here{quoted(kind)}", "choose full or lora"))
        return
    if flat.refuse_adapters(work, "finetuning_type", "write finetuning_type: full, or stage: sft"):
        return
    work.notes.append(f"finetuning_type lora -> {work.stage}.lora")
    rank = work.number("lora_rank", 8)
    flat.put_all(work, {key: ours for key, ours in LORA.items() if key not in ("lora_rank", "lora_alpha")})
    work.put(".lora.r", rank, "lora_rank", "" if "lora_rank" in work.old else "its default")
    alpha = work.get("lora_alpha")
    work.put(".lora.lora_alpha", alpha or 2 * rank, "lora_alpha", "" if alpha else "twice the rank")
    targets = flat.texts(work.get("lora_target"))
    everywhere = targets in ([], ["all"])
    work.put(".lora.target_modules", "all-linear" if everywhere else list(targets), "lora_target")
    if work.get("additional_target"):
        work.put(".lora.modules_to_save", list(flat.texts(work.old["additional_target"])), "additional_target")
    bits = work.get("quantization_bit")
    if bits == 4:
        work.put(".lora.load_in_4bit", True, "quantization_bit")
    elif bits:
        work.problems.append(Problem(("quantization_bit",), f"there are 4-bit bases alone{quoted(bits)}", "write 4"))
