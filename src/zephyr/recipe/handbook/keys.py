"""The keys of the alignment-handbook's recipes of 2023 to 2025: what each is called here, or why it is left out.

Tables alone, and what tells such a recipe: `translating` and `training` read them. What depends on several keys, or on
the year, is worked out there.
"""

from collections.abc import Mapping

# Old key: our key below the stage.
TRAIN_KEYS = {
    "learning_rate": "train.learning_rate",
    "num_train_epochs": "train.num_train_epochs",
    "lr_scheduler_type": "train.lr_scheduler_type",
    "warmup_ratio": "train.warmup_ratio",
    "warmup_steps": "train.warmup_steps",
    "adam_beta1": "train.adam_beta1",
    "adam_beta2": "train.adam_beta2",
    "adam_epsilon": "train.adam_epsilon",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "logging_steps": "train.logging_steps",
    "gradient_checkpointing": "train.activation_checkpointing",
    "activation_checkpointing": "train.activation_checkpointing",
    "torch_compile": "train.compile",
    "router_aux_loss_coef": "train.router_aux_loss_coef",
    "neftune_noise_alpha": "train.neftune_noise_alpha",
}
OBJECTIVE_KEYS = {
    "beta": "objective.beta",
    "loss_type": "objective.loss_type",
    "discopop_tau": "objective.discopop_tau",
    "f_divergence_type": "objective.f_divergence",
    "f_alpha_divergence_coef": "objective.f_alpha",
    "ld_alpha": "objective.ld_alpha",
    "rpo_alpha": "objective.rpo_alpha",
    "ref_model_sync_steps": "objective.reference_sync_steps",
    "ref_model_mixup_alpha": "objective.reference_mixup",
    "gamma_beta_ratio": "objective.gamma_beta_ratio",
    "sft_weight": "objective.sft_weight",
    "cpo_alpha": "objective.cpo_alpha",
    "alpha": "objective.alpha",
    "tpo_alpha": "objective.tpo_alpha",
    "tpo_l_gamma": "objective.tpo_l_gamma",
    "use_weighting": "objective.use_weighting",
    "desirable_weight": "objective.desirable_weight",
    "undesirable_weight": "objective.undesirable_weight",
}
LORA_KEYS = {
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target_modules": "lora.target_modules",
    "lora_modules_to_save": "lora.modules_to_save",
    "use_dora": "lora.use_dora",
    "use_rslora": "lora.use_rslora",
    "load_in_4bit": "lora.load_in_4bit",
}
# Keys that are worked out together with others, or with the year.
WORKED_OUT = {
    "model_name_or_path", "model_revision", "chat_template", "auto_insert_empty_system_msg",
    "dataset_mixer", "dataset_splits", "dataset_configs", "dataset_mixture", "dataset_name", "dataset_config",
    "dataset_train_split", "dataset_test_split", "text_column", "dataset_text_field", "dataset_kwargs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_devices",
    "max_length", "max_seq_length", "max_prompt_length", "truncation_mode", "packing", "assistant_only_loss",
    "bf16", "fp16", "optim", "lr_scheduler_kwargs", "max_steps", "report_to", "save_total_limit",
    "do_eval", "eval_strategy", "evaluation_strategy", "eval_steps", "save_strategy", "save_steps",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "datasets", "test_split_size", "chat_template_path", "center_rewards_coefficient", "loss_weights",
    "use_peft", "label_smoothing", "sync_ref_model", "simpo_gamma",
    "seed", "output_dir", "hub_model_id", "run_name",
}  # fmt: skip

_HUB = "deliver.push_to_hub: {repo: OWNER/NAME} publishes a run"
_ROWS = "how rows are prepared changes no result"
_LOG = "the log is always written"
_DEVICE = "chosen for the device at hand"
_FOLDER = "finished stages are kept and found again"
LEFT_OUT = {
    "push_to_hub": _HUB, "hub_strategy": _HUB, "hub_private_repo": _HUB, "hub_model_revision": _HUB,
    "hub_token": _HUB, "hub_always_push": _HUB,
    "preprocessing_num_workers": _ROWS, "dataset_num_proc": _ROWS, "dataloader_num_workers": _ROWS,
    "dataloader_pin_memory": _ROWS, "remove_unused_columns": _ROWS, "group_by_length": _ROWS,
    "log_level": _LOG, "logging_strategy": _LOG, "logging_first_step": _LOG, "logging_dir": _LOG,
    "log_level_replica": _LOG, "include_tokens_per_second": _LOG, "include_num_input_tokens_seen": _LOG,
    "use_flash_attention_2": _DEVICE, "attn_implementation": _DEVICE, "tf32": _DEVICE, "use_liger_kernel": _DEVICE,
    "use_liger": _DEVICE, "ddp_timeout": _DEVICE, "ddp_find_unused_parameters": _DEVICE, "deepspeed": _DEVICE,
    "fsdp": _DEVICE, "fsdp_config": _DEVICE, "use_cache": _DEVICE, "torch_compile_backend": _DEVICE,
    "overwrite_output_dir": _FOLDER, "resume_from_checkpoint": _FOLDER, "do_train": _FOLDER, "save_only_model": _FOLDER,
    "torch_dtype": "weights are kept in float32 and computed with in bfloat16, as DeepSpeed did",
    "dtype": "weights are kept in float32 and computed with in bfloat16, as DeepSpeed did",
    "gradient_checkpointing_kwargs": "there is one kind of activation checkpointing",
    "per_device_eval_batch_size": "evaluation is packed by max_tokens_per_micro_batch",
    "eval_accumulation_steps": "evaluation is packed by max_tokens_per_micro_batch",
    "padding_free": "sequences are never padded",
    "packing_strategy": "sequences are laid out as prefix trees",
    "eval_packing": "sequences are laid out as prefix trees",
    "average_tokens_across_devices": "losses are always normalised over the global batch",
    "precompute_ref_log_probs": "the reference's log-probs are always computed once and stored",
    "reference_free": "choose objective simpo, cpo or orpo for that",
    "disable_dropout": "dropout is always off",
    "is_encoder_decoder": "models are decoders",
    "max_target_length": "it had no effect on decoders",
    "max_completion_length": "answers share max_length with their prompt",
    "label_pad_token_id": "nothing is padded",
    "padding_value": "nothing is padded",
    "truncation_side": "data.truncation.rule says which side is cut",
    "tokenizer_name_or_path": "the model's own tokenizer is used",
    "model_code_revision": "no code of a model is run unless model.trusted_code names it",
    "base_model_revision": "a folder of adapters names its base itself",
    "trust_remote_code": "no code is run unless model.trusted_code names its repository and commit",
    "eos_token": "the chat template knows its stop token",
    "load_in_8bit": "there is no 8-bit base; load_in_4bit there is",
    "bnb_4bit_quant_type": "4-bit bases are nf4", "bnb_4bit_quant_storage": "4-bit bases are nf4",
    "bnb_4bit_compute_dtype": "4-bit bases compute in bfloat16",
    "use_bnb_nested_quant": "4-bit bases are always doubly quantised",
    "lora_task_type": "models are causal language models",
    "model_adapter_name": "there is one adapter", "ref_adapter_name": "the reference is the model without adapters",
    "dataloader_drop_last": "an epoch ends with a smaller batch",
    "trainer_type": "the objective says it",
    "generate_during_eval": "the report shows samples",
    "benchmarks": "name tasks under evaluate",
    "callbacks": "name tasks under evaluate",
    "system_prompt": "write system messages into the rows",
    "wandb_entity": "set WANDB_ENTITY", "wandb_project": "set WANDB_PROJECT",
    "data_seed": "every random choice follows from seed",
    "dataset_streaming": "local files are always streamed", "shuffle_dataset": "write data.shuffle",
    "pad_to_multiple_of": "nothing is padded", "pad_token": "nothing is padded", "length_column_name": _ROWS,
    "train_sampling_strategy": _ROWS, "dataloader_prefetch_factor": _ROWS, "dataloader_persistent_workers": _ROWS,
    "dataloader_in_order": _ROWS, "dataloader_multiprocessing_context": _ROWS, "label_names": _ROWS,
    "activation_offloading": "activations stay on the device",
    "activation_checkpointing_kwargs": "there is one kind of activation checkpointing",
    "precompute_ref_batch_size": "the reference's log-probs are always computed once and stored",
    "auto_find_batch_size": "micro-batches are cut by a token budget", "ignore_bias_buffers": _DEVICE,
    "torch_compile_mode": _DEVICE, "liger_kernel_config": _DEVICE, "use_cpu": _DEVICE, "local_rank": _DEVICE,
    "accelerator_config": _DEVICE, "parallelism_config": _DEVICE, "ddp_backend": _DEVICE, "ddp_bucket_cap_mb": _DEVICE,
    "ddp_broadcast_buffers": _DEVICE, "ddp_static_graph": _DEVICE, "bf16_full_eval": _DEVICE, "fp16_full_eval": _DEVICE,
    "torch_empty_cache_steps": _DEVICE, "disable_tqdm": _LOG, "log_on_each_node": _LOG, "skip_memory_metrics": _LOG,
    "logging_nan_inf_filter": "a loss that is not finite stops the run before the step",
    "eval_on_start": "held-out rows are always evaluated before the first step", "prediction_loss_only": _LOG,
    "save_on_each_node": _FOLDER, "ignore_data_skip": _FOLDER, "full_determinism": "runs are always repeatable",
    "restore_callback_states_from_checkpoint": _FOLDER, "enable_jit_checkpoint": _FOLDER, "hub_revision": _HUB,
    "project": "set WANDB_PROJECT", "trackio_space_id": "set TRACKIO_SPACE_ID",
    "do_predict": "name tasks under evaluate", "no_remove_unused_columns": _ROWS,
}  # fmt: skip
_REWARDED = (
    "is of GRPO, which is not trained here",
    "learn from rewards in rounds: zephyr recipes copy smollm2-135m-checked, or train on pairs",
)
# Of online reinforcement learning, which has no counterpart here.
ONLINE = dict.fromkeys(("reward_funcs", "num_generations", "reward_model_name_or_path", "scale_rewards"), _REWARDED)

OLD_KEYS = {*TRAIN_KEYS, *OBJECTIVE_KEYS, *LORA_KEYS, *WORKED_OUT, *LEFT_OUT, *ONLINE}

# What transformers' schedules are told in lr_scheduler_kwargs, and ours too.
SCHEDULE_KEYS = {
    "cosine_with_min_lr": {"min_lr_rate": "min_lr_ratio"},
    "cosine_warmup_with_min_lr": {"min_lr_rate": "min_lr_ratio"},
    "cosine_with_restarts": {"num_cycles": "num_cycles"},
    "polynomial": {"power": "power"},
    "warmup_stable_decay": {"num_decay_steps": "num_decay_steps"},
    "reduce_lr_on_plateau": {"factor": "plateau_factor", "patience": "plateau_patience"},
}
OPTIMIZERS = {
    "adamw_torch": "adamw_torch",
    "adamw_torch_fused": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "paged_adamw_32bit": "adamw_torch",
    "paged_adamw": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "adamw_torch_8bit": "adamw_8bit",
    "rmsprop": "rmsprop",
    "lion_32bit": "lion",
    "paged_lion_32bit": "lion",
    "adafactor": "adafactor",
    "schedule_free_adamw": "schedule_free_adamw",
    "schedule_free_sgd": "schedule_free_sgd",
}
# Devices of published runs that were not the usual eight, by a word in their names; cards and READMEs say so.
PUBLISHED_DEVICES = {"141b": 32, "smollm3-dpo": 16, "smollm3-sft": 64, "smollm3-mid": 64}
DEVICES = 8


OURS = {"model", "sft", "align", "pretrain"}


def is_handbook(data: Mapping[str, object]) -> bool:
    """Whether a file's keys are those of a handbook's recipe."""
    return bool({"model_name_or_path", "dataset_mixer", "dataset_mixture"} & data.keys()) and not OURS & data.keys()


_STEP = "write train_batch_size: the examples of a step over all devices (per device x accumulation x devices)"
_PRECISION = "write precision: bf16, pure_bf16 or float32"
_LENGTH = "write data.max_length, in tokens"
_SOURCES = "write data: {sources: [{path: ...}]}"
_MODEL = "write model: {name_or_path: ...}"
_ADAPTERS = "write lora: {r: ..., lora_alpha: ...} in the stage"
_SYNCED = "write objective.reference_sync_steps"
_BUDGET = "leave it out: evaluation is packed by max_tokens_per_micro_batch"
_IN_4BIT = "write lora: {load_in_4bit: true}"
_KERNELS = "leave it out: kernels are chosen for the device at hand"
_NOT_PADDED = "leave it out: sequences are laid out as prefix trees, never padded, and do not see each other"
_OWN_TOKENIZER = "leave it out: the model's own tokenizer is used"
_SAMPLING = "write it under sampling of feedback.candidates, or of a task of evaluate"
# What people write who come from other trainers, and what to write here.
HABITS = {
    "per_device_train_batch_size": _STEP, "gradient_accumulation_steps": _STEP, "micro_batch_size": _STEP,
    "batch_size": _STEP, "fp16": _PRECISION, "bf16": _PRECISION, "torch_dtype": _PRECISION, "dtype": _PRECISION,
    "max_seq_length": _LENGTH, "max_seq_len": _LENGTH, "sequence_len": _LENGTH, "cutoff_len": _LENGTH,
    "dataset": _SOURCES, "datasets": _SOURCES, "dataset_name": _SOURCES, "train_file": _SOURCES,
    "model_name_or_path": _MODEL, "base_model": _MODEL, "model_name": _MODEL,
    "max_length": _LENGTH, "max_prompt_length": _LENGTH, "truncation_mode": "write data.truncation: {rule: ...}",
    "model_max_length": _LENGTH, "model_init_kwargs": _MODEL, "load_in_8bit": _IN_4BIT,
    "label_smoothing_factor": "write objective.label_smoothing", "label_smoothing": "write objective.label_smoothing",
    "loss_weights": "write objective.loss_type: {sigmoid: 0.8, bco_pair: 0.2}", "sync_ref_model": _SYNCED,
    "ref_model_sync_steps": _SYNCED, "simpo_gamma": "write objective.gamma_beta_ratio: gamma divided by beta",
    "run_name": "write name at the top of the recipe", "output_dir": "write output_dir at the top of the recipe",
    "seed": "write seed at the top of the recipe", "hub_model_id": "write name at the top of the recipe",
    "chat_template_path": "write chat_template: {name: file, path: ...}", "per_device_eval_batch_size": _BUDGET,
    "warmup": "write warmup_ratio or warmup_steps", "max_tokens": "write data.max_length, in tokens",
    "mixed_precision": _PRECISION, "quantization_bit": _IN_4BIT,
    "load_4bit": _IN_4BIT, "r": _ADAPTERS, "lora_alpha": _ADAPTERS, "lora_dropout": _ADAPTERS, "flash_attn": _KERNELS,
    "use_unsloth": _KERNELS, "pref_loss": "write objective: {name: ...} and its loss_type",
    "template": "write chat_template: {name: ...}",
    "packing": _NOT_PADDED, "sample_packing": _NOT_PADDED, "flash_attention": _KERNELS, "unsloth": _KERNELS,
    "target_modules": "write lora: {target_modules: ...}", "random_state": "write seed at the top of the recipe",
    "max_samples": "write max_rows in a source of data.sources", "train_dataset": _SOURCES,
    "dataset_text_field": "write columns: {text: ...} in a source of data.sources",
    "ref_model": "leave it out: the reference is the model as training starts", "tokenizer": _OWN_TOKENIZER,
    "processing_class": _OWN_TOKENIZER, "max_new_tokens": _SAMPLING, "temperature": _SAMPLING, "top_p": _SAMPLING,
    "val_ratio": "write data.eval_share", "eval_dataset": "write data.eval_sources",
    "lora_r": _ADAPTERS, "lora_rank": _ADAPTERS, "use_peft": _ADAPTERS, "adapter": _ADAPTERS, "peft_config": _ADAPTERS,
    "finetuning_type": _ADAPTERS, "lora_target_modules": "write lora: {target_modules: ...}",
    "lora_target": "write lora: {target_modules: ...}", "load_in_4bit": _IN_4BIT,
    "epochs": "write num_train_epochs", "num_epochs": "write num_train_epochs", "lr": "write learning_rate",
    "optimizer": "write optim", "lr_scheduler": "write lr_scheduler_type", "scheduler": "write lr_scheduler_type",
    "gradient_checkpointing": "write activation_checkpointing", "clip_grad": "write max_grad_norm",
    "load_best_model_at_end": "write metric_for_best_model, such as eval_loss",
    "evaluation_strategy": "write eval_steps; without it rows are evaluated at the end",
    "eval_strategy": "write eval_steps; without it rows are evaluated at the end",
    "save_strategy": "write save_steps or save_seconds", "test_size": "write data.eval_share",
    "val_size": "write data.eval_share", "val_set_size": "write data.eval_share",
    "rl": "write align: {objective: {name: dpo}}", "rl_beta": "write objective.beta",
    "pref_beta": "write objective.beta",
    "train_on_inputs": "write objective.loss_on: everything or assistant",
    "completion_only_loss": "write objective.loss_on: assistant",
    "assistant_only_loss": "write objective.loss_on: assistant",
}  # fmt: skip


def habit(name: str) -> str | None:
    """What to write instead of a key of another trainer, or why it needs nothing; None for one nobody has."""
    if name in HABITS:
        return HABITS[name]
    ours = {**TRAIN_KEYS, **OBJECTIVE_KEYS, **LORA_KEYS}.get(name)
    if ours is not None:
        return f"write {ours} in its stage"
    return f"leave it out: {LEFT_OUT[name]}" if name in LEFT_OUT else None
