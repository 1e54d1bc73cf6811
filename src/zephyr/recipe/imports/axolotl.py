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
TABLE = flat.SAME_BELOW_TRAIN | {
    "adam_eps": ".train.adam_epsilon",
    "num_epochs": ".train.num_train_epochs",
    "sequence_len": ".data.max_length",
    "shuffle_merged_datasets": ".data.shuffle",
}
LORA = {
    "lora_r": ".lora.r", "lora_dropout": ".lora.lora_dropout", "lora_alpha": ".lora.lora_alpha",
    "lora_modules_to_save": ".lora.modules_to_save",
    "peft_use_dora": ".lora.use_dora", "peft_use_rslora": ".lora.use_rslora",
    "peft_layers_to_transform": ".lora.layers_to_transform", "loraplus_lr_ratio": ".lora.loraplus_lr_ratio",
}  # fmt: skip
_PACKED = "sequences are laid out as prefix trees, never padded, and do not see each other"
_KERNEL = "kernels are chosen for the device at hand"
_COMMANDS = "evaluate and save by steps: eval_steps, save_steps"
_SHARDED = "torchrun's world is sharded by fully_shard; nothing is chosen by hand"
_TRACKER = "name trackers in report_to; their own variables say the rest"
_TOKENIZER = "the model's own tokenizer is used"
_GENERATED = "name tasks under evaluate, or look at samples in the report"
_WATCHED = "a loss that is not finite stops the run before the step"
UNNEEDED = flat.NEEDED_NOWHERE | {
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
    "shuffle_before_merging_datasets": "rows are shuffled whole", "dataset_keep_in_memory": "rows are streamed",
    "streaming": "local files are always streamed", "is_preprocess": "`zephyr check` prepares and counts",
    "skip_prepare_dataset": "rows are always checked", "preprocess_iterable": "rows are streamed",
    "push_dataset_to_hub": "`zephyr push --data` publishes rows",
    "eval_sequence_len": "held-out rows have the same data.max_length", "min_sample_len": "every row is kept",
    "max_prompt_len": "answers share max_length with their prompt", "batch_flattening": _PACKED,
    "dpo_padding_free": _PACKED, "sample_packing_bin_size": _PACKED, "sample_packing_sequentially": _PACKED,
    "sample_packing_mp_start_method": _PACKED, "pretrain_multipack_attn": _PACKED, "pad_to_multiple_of": _PACKED,
    "eager_attention": _KERNEL, "sage_attention": _KERNEL, "sdpa_varlen": _KERNEL, "flash_attn_cross_entropy": _KERNEL,
    "flash_attn_rms_norm": _KERNEL, "flash_attn_fuse_mlp": _KERNEL, "flex_attn_compile_kwargs": _KERNEL,
    "lora_embedding_kernel": _KERNEL, "dpo_use_liger_kernel": _KERNEL, "use_kernels": _KERNEL,
    "experts_implementation": _KERNEL, "torch_compile_mode": _KERNEL, "tiled_mlp": _KERNEL,
    "chunked_cross_entropy": "logits are always computed in chunks",
    "chunked_cross_entropy_num_chunks": "logits are always computed in chunks",
    "eval_batch_size": "evaluation is packed by max_tokens_per_micro_batch",
    "evaluation_strategy": "held-out rows are evaluated every eval_steps, and at the end",
    "load_best_model_at_end": "write train.metric_for_best_model, such as eval_loss",
    "greater_is_better": "the metric's name says it", "save_safetensors": "weights are always safetensors",
    "save_first_step": "save_steps says when", "auto_find_batch_size": "micro-batches are cut by a token budget",
    "fsdp_version": _SHARDED, "fsdp_final_state_dict_type": _SHARDED, "dp_shard_size": _SHARDED,
    "dp_replicate_size": _SHARDED, "accelerator_config": _SHARDED, "ddp": _SHARDED, "ddp_bucket_cap_mb": _SHARDED,
    "ddp_broadcast_buffers": _SHARDED, "deepcompile": _SHARDED, "world_size": _SHARDED, "device": _SHARDED,
    "device_map": _SHARDED, "max_memory": _SHARDED, "gpu_memory_limit": _SHARDED, "low_cpu_mem_usage": _SHARDED,
    "qlora_sharded_model_loading": _SHARDED, "use_ray": _SHARDED, "ray_num_workers": _SHARDED,
    "activation_offloading": "activations stay on the device", "layer_offloading": "weights stay on the device",
    "gc_steps": "memory is freed when it is needed", "torch_empty_cache_steps": "memory is freed when it is needed",
    "use_tensorboard": _TRACKER, "use_trackio": _TRACKER, "trackio_project_name": _TRACKER,
    "trackio_run_name": _TRACKER, "trackio_space_id": _TRACKER, "use_mlflow": _TRACKER,
    "mlflow_tracking_uri": _TRACKER, "mlflow_experiment_name": _TRACKER, "mlflow_run_name": _TRACKER,
    "hf_mlflow_log_artifacts": _TRACKER, "use_comet": _TRACKER, "comet_project_name": _TRACKER,
    "comet_workspace": _TRACKER, "comet_mode": _TRACKER, "wandb_mode": _TRACKER, "include_tkps": _TRACKER,
    "tokenizer_use_fast": _TOKENIZER, "tokenizer_legacy": _TOKENIZER, "tokenizer_use_mistral_common": _TOKENIZER,
    "tokenizer_save_jinja_files": _TOKENIZER, "fix_untrained_tokens": _TOKENIZER, "eot_tokens": _TOKENIZER,
    "is_falcon_derived_model": "transformers detects it", "is_mistral_derived_model": "transformers detects it",
    "is_qwen_derived_model": "transformers detects it", "processor_type": "models read text alone",
    "hf_use_auth_token": "set HF_TOKEN", "chat_template_kwargs": "write chat_template.variables",
    "default_system_message": "write system messages into the rows",
    "generate_samples": _GENERATED, "num_generation_samples": _GENERATED, "generation_max_new_tokens": _GENERATED,
    "generation_temperature": _GENERATED, "generation_top_p": _GENERATED, "generation_top_k": _GENERATED,
    "generation_do_sample": _GENERATED, "generation_prompt_ratio": _GENERATED, "do_bench_eval": _GENERATED,
    "do_causal_lm_eval": _GENERATED, "eval_causal_lm_metrics": _GENERATED, "bench_dataset": _GENERATED,
    "dpo_generate_during_eval": _GENERATED, "loss_watchdog_threshold": _WATCHED, "loss_watchdog_patience": _WATCHED,
    "profiler_steps": "profile with torch.profiler", "profiler_steps_start": "profile with torch.profiler",
    "embeddings_skip_upcast": "weights are kept in float32", "float32": "write train.precision: float32",
    "model_quantization_config_kwargs": "it says more of model_quantization_config",
    "float16": "float16 is not trained in, bfloat16 is", "dpo_use_logits_to_keep": "logits are computed in chunks",
    "batch_size": "micro_batch_size x gradient_accumulation_steps say it",
    "use_scattermoe": _KERNEL, "use_sonicmoe": _KERNEL, "liger_rms_norm_gated": _KERNEL, "fused_attn_kernel": _KERNEL,
    "llama4_linearized_experts": _KERNEL, "gemma4_hybrid_attn_impl": _KERNEL, "use_dsv4_kernels": _KERNEL,
    "dsv4_fp4_grouped_mode": _KERNEL, "use_glm_dsa_kernels": _KERNEL, "gptq_disable_exllama": _KERNEL,
    "flash_optimum": _KERNEL, "sample_packing_seq_len_multiplier": _PACKED, "max_packed_sequence_len": _PACKED,
    "streaming_multipack_buffer_size": _PACKED, "total_num_tokens": "tokens are counted before the first step",
    "tensor_parallel_size": _SHARDED, "expert_parallel_size": _SHARDED, "experimental_skip_move_to_device": _SHARDED,
    "expert_parallel_num_nvl_bytes": _SHARDED, "expert_parallel_token_capacity": _SHARDED,
    "torchdistx_path": _SHARDED, "resize_token_embeddings_to_32x": "embeddings keep the size that the model has",
    "use_otel_metrics": _TRACKER, "otel_metrics_host": _TRACKER, "otel_metrics_port": _TRACKER,
    "use_swanlab": _TRACKER, "swanlab_project": _TRACKER, "swanlab_experiment_name": _TRACKER,
    "swanlab_description": _TRACKER, "swanlab_mode": _TRACKER, "swanlab_log_completions": _TRACKER,
    "swanlab_workspace": _TRACKER, "swanlab_log_model": _TRACKER, "swanlab_completion_log_interval": _TRACKER,
    "swanlab_completion_max_buffer": _TRACKER, "base_model_ignore_patterns": "safetensors alone are downloaded",
    "freeze_mm_modules": "models read text alone", "test_value": "it is of axolotl's own tests",
}  # fmt: skip
# What changes what is learnt and has no counterpart here.
REFUSED = {
    "pretraining_dataset": ("streams rows here by data.sources", "write them under datasets"),
    "unfrozen_parameters": ("parts of a model are not frozen here", "train adapters: adapter: lora"),
    "process_reward_model": ("rewards of steps are not learnt here", "train on whole answers"),
    "relora": ("adapters are not merged and begun again", "leave it out"),
    "qat": ("weights are not trained for a quantization", "export a GGUF file afterwards"),
    "fp8": ("float8 is not trained in", "leave it out: bfloat16 is"),
    "use_pose": ("positions are not skipped in training", "train with longer rows"),
    "lisa_n_layers": ("layers are not drawn for training", "train adapters: adapter: lora"),
    "embedding_lr": ("all weights have one learning rate", "leave it out"),
    "embedding_lr_scale": ("all weights have one learning rate", "leave it out"),
    "lr_groups": ("all weights have one learning rate", "leave it out"),
    "loraplus_lr_embedding": ("all weights have one learning rate", "leave it out"),
    "jagged_restart_steps": ("the learning rate is not begun again", "choose cosine_with_restarts"),
    "cosine_constant_lr_ratio": ("the learning rate falls to the end", "choose warmup_stable_decay"),
    "use_eaft": ("tokens are not weighted by entropy", "leave it out"),
    "dpo_loss_weights": ("losses with weights are one mapping here", "write objective.loss_type: {sigmoid: 0.8, ...}"),
    "reinit_weights": ("a new model is model.kind: new", "write a recipe with one"),
    "merge_lora": ("adapters are always merged beside their own folder", "leave it out"),
    "gptq": ("there are 4-bit bases of bitsandbytes alone", "write load_in_4bit: true"),
    "model_config": ("settings of the model's config.json stay as they are", "train.router_aux_loss_coef is ours"),
    "cls_model_config": ("settings of the model's config.json stay as they are", "leave it out"),
    "quantize_moe_experts": ("experts are not quantized apart", "leave it out: load_in_4bit takes linear layers"),
    "model_quantization_config": ("a base is read as it is stored", "name one in bfloat16, with load_in_4bit: true"),
    "bnb_config_kwargs": ("4-bit bases are nf4 of bitsandbytes, doubly quantized", "leave it out"),
    "nvfp4_merge_aware": ("there are 4-bit bases of bitsandbytes alone", "leave it out"),
    "use_onebitllms": ("there are 4-bit bases of bitsandbytes alone", "leave it out"),
    "lora_target_parameters": ("adapters sit on modules, of experts too", "name lora_target_modules"),
    "curriculum_sampling": ("is the order of the rows", "write shuffle_merged_datasets: false"),
    "lr_quadratic_warmup": ("the learning rate warms up linearly", "leave it out"),
    "eta_min": ("is the least rate of one scheduler", "write cosine_min_lr_ratio: eta_min / learning_rate"),
    "diffusion": ("diffusion models are not trained", "leave it out"),
    "llmcompressor": ("weights are not made sparse", "leave it out"),
    "peft": ("holds other options of peft", "write lora_r, lora_alpha, lora_dropout, lora_target_modules"),
    "full_finetune": ("is said by adapter", "leave adapter out, and all weights are trained"),
    "trl": ("holds the options of GRPO", "write beta as rl_beta"),
    "vllm": ("holds the options of GRPO", "leave it out"),
    "context_parallel_size": ("rows are not cut over devices", "shorten sequence_len"),
    "sequence_parallel_degree": ("rows are not cut over devices", "shorten sequence_len"),
    "added_tokens_overrides": ("the tokenizer keeps its tokens", "name a model whose tokenizer has them"),
    "tokens": ("the tokenizer keeps its tokens", "name a model whose tokenizer has them"),
}
_WORKED_OUT = {
    "base_model", "base_model_config", "revision_of_model", "rl", "rl_beta", "dpo_beta", "orpo_alpha", "simpo_gamma",
    "cpo_alpha", "kto_desirable_weight", "kto_undesirable_weight", "rpo_alpha", "dpo_label_smoothing", "datasets",
    "test_datasets", "val_set_size", "output_dir", "adapter", "lora_target_linear",
    "lora_target_modules", "lora_model_dir", "load_in_4bit", "micro_batch_size", "gradient_accumulation_steps",
    "num_devices", "optimizer", "lr_scheduler", "cosine_min_lr_ratio", "warmup_steps", "warmup_ratio", "max_steps",
    "eval_steps", "save_steps", "save_total_limit", "report_to", "train_on_inputs", "bf16", "bfloat16", "chat_template",
    "seed", "wandb_project", "use_wandb", "roles_to_train", "excess_length_strategy", "dpo_loss_type",
    "dpo_use_weighting", "reward_model", "center_rewards_coefficient", "num_labels", "metric_for_best_model",
}  # fmt: skip
KEYS = {*TABLE, *LORA, *UNNEEDED, *_WORKED_OUT, *REFUSED}


def translate_axolotl(old: dict[str, Plain], file: Path, places: dict[Keys, str]) -> Translated:
    """The recipe that an axolotl file translates to. Raises RecipeError with all that cannot be translated."""
    work = Translation(old, file)
    rl = str(work.get("rl") or "")
    texts = [one for one in _datasets(work, "datasets") if str(one.get("type")) == "completion"]
    rates = work.get("reward_model") is True
    work.stage = "reward" if rates else "align" if rl else "pretrain" if texts else "sft"
    work.notes.append(f"the stage is {work.stage}, detected by rl, reward_model and the types of datasets")
    flat.name_run(work, file.stem)
    work.put("model.kind", "pretrained", "base_model")
    work.put("model.name_or_path", work.get("base_model"), "base_model")
    if work.get("revision_of_model") is not None:
        work.put("model.revision", work.old["revision_of_model"], "revision_of_model")
    _template(work)
    _rows(work)
    flat.put_all(work, TABLE)
    flat.put_batch(work, "micro_batch_size", 1)
    flat.put_schedule(work)
    flat.put_optimizer(work, "optimizer")
    _training(work)
    if rates:
        flat.put_all(work, {"center_rewards_coefficient": ".objective.center_rewards_coefficient"})
    elif rl:
        _objective(work, rl)
    _adapters(work)
    for key, (why, remedy) in REFUSED.items():
        flat.refuse(work, key, why, remedy)
    flat.account(work, UNNEEDED, KEYS)
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
        "dpo": {
            "rpo_alpha": "rpo_alpha", "dpo_label_smoothing": "label_smoothing", "dpo_use_weighting": "use_weighting",
        },
    }  # fmt: skip
    losses = flat.texts(work.get("dpo_loss_type"))
    if rl == "dpo" and len(losses) == 1:
        work.put(".objective.loss_type", losses[0], "dpo_loss_type")
    elif losses:
        remedy = "write objective.loss_type: {sigmoid: 0.8, ...}"
        work.problems.append(Problem(("dpo_loss_type",), f"is no single loss of dpo{quoted(losses)}", remedy))
    for key, name in own.get(rl, {}).items():
        if work.get(key) is not None:
            work.put(f".objective.{name}", work.old[key], key)


def _adapters(work: Translation) -> None:
    kind = work.get("adapter")
    if kind not in ("lora", "qlora"):
        if kind:
            work.problems.append(Problem(("adapter",), f"is not known here{quoted(kind)}", "write lora or qlora"))
        for key in LORA:
            work.leave(key, "adapter is not set")
        return
    if flat.refuse_adapters(work, "adapter", "leave adapter out, or train on dialogues: type: chat_template"):
        return
    flat.put_all(work, LORA)
    targets = work.get("lora_target_modules")
    everywhere = work.get("lora_target_linear") is True or targets in (None, "all-linear")
    key = "lora_target_linear" if everywhere else "lora_target_modules"
    named: list[Plain] = [*flat.texts(targets)]
    work.put(".lora.target_modules", "all-linear" if everywhere else named, key)
    if kind == "qlora" or work.get("load_in_4bit") is True:
        work.put(".lora.load_in_4bit", True, "load_in_4bit" if work.get("load_in_4bit") else "adapter")
    flat.refuse(work, "lora_model_dir", "goes on with adapters", "merge them first, and name the merged model")
