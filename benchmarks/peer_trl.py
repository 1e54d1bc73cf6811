"""TRL's side of a benchmark: its own trainers, unmodified, on the same ids; ``peer_trl.py TASK RESULT``."""

import sys
import tempfile
import time
from itertools import pairwise

import torch
from datasets import Dataset
from machine import peak_device_bytes, peak_rss_bytes, reset_peak_memory
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from task import SIMPO_BETA, SIMPO_MARGIN, Pair, Run, Task, labelled_answers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


class Recorder(TrainerCallback):
    """Losses and times of all optimizer steps; the Trainer's logging of a step falls into the next one."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.losses: list[float] = []
        self.times: list[float] = []

    def on_train_begin(self, *_args, **_kwargs) -> None:
        self._tick()

    def on_step_end(self, *_args, **_kwargs) -> None:
        self._tick()

    def on_log(self, _args, _state, _control, logs, **_kwargs) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def _tick(self) -> None:
        if self.device != "cpu":
            torch.accelerator.synchronize()
        self.times.append(time.perf_counter())


def id_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of texts such as ``<1><734>``, so that ids pass through TRL's own data path unchanged."""
    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(vocab_size)}, unk_token="<0>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\d+>"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<1>", eos_token="<2>", pad_token="<0>")


def dataset(pairs: list[Pair], task: Task) -> Dataset:
    """SFT takes ids as they are; the others take texts and tokenize them before training."""
    if task.objective == "sft":
        return Dataset.from_list([{"input_ids": pair.prompt + pair.chosen} for pair in pairs])
    if task.objective == "kto":
        return Dataset.from_list(
            [
                {"prompt": text(prompt), "completion": text(answer), "label": is_chosen}
                for prompt, answer, is_chosen in labelled_answers(pairs, task.pairs_per_step)
            ]
        )
    return Dataset.from_list([{name: text(ids) for name, ids in pair._asdict().items()} for pair in pairs])


def text(ids: list[int]) -> str:
    """What `id_tokenizer` reads as these ids."""
    return "".join(f"<{i}>" for i in ids)


def trainer(task: Task, model, pairs: list[Pair], output_dir: str, recorder: Recorder) -> Trainer:
    """The objective's trainer; every argument that could silently make the sides unequal is written out."""
    rows_per_step = task.pairs_per_step * (2 if task.objective == "kto" else 1)
    # KTO's estimate is that of a micro-batch, so it must be the whole step.
    micro_batch = rows_per_step if task.objective == "kto" else task.peer_micro_batch or rows_per_step
    arguments = {
        "output_dir": output_dir,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": rows_per_step // micro_batch,
        "train_sampling_strategy": "sequential",
        "max_length": task.max_length,
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1.0e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": task.peer_checkpointing,
        "use_liger_kernel": task.peer_liger,
        "bf16": task.autocast or task.dtype == "bfloat16",  # left out, TRL turns it on
        "fp16": False,
        "use_cpu": task.device == "cpu",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": task.device != "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    common = {
        "model": model,
        "train_dataset": dataset(pairs, task),
        "processing_class": id_tokenizer(model.config.vocab_size),
        "callbacks": [recorder],
        "peft_config": LoraConfig.from_pretrained(task.adapter_folder, inference_mode=False)
        if task.adapter_folder
        else None,
    }
    if task.adapter_folder:
        common["peft_config"] = LoraConfig.from_pretrained(task.adapter_folder)
        common["peft_config"].inference_mode = False
    if task.objective == "sft":
        if task.peer_padding_free:  # TRL wants no max_length beside it, and the pairs are cut already
            arguments |= {"padding_free": True, "max_length": None}
        return SFTTrainer(args=SFTConfig(**arguments, packing=False, loss_type="nll"), **common)
    if task.objective == "dpo":
        config = DPOConfig(**arguments, beta=task.beta, loss_type=["sigmoid"], precompute_ref_log_probs=False)
        return DPOTrainer(args=config, **common)
    if task.objective == "kto":
        return KTOTrainer(args=KTOConfig(**arguments, beta=task.beta), **common)
    arguments["remove_unused_columns"] = False
    if task.objective == "simpo":
        margin = {"beta": SIMPO_BETA, "simpo_gamma": SIMPO_MARGIN * SIMPO_BETA, "cpo_alpha": 0.0}
        return CPOTrainer(args=CPOConfig(**arguments, **margin, loss_type="simpo"), **common)
    return ORPOTrainer(args=ORPOConfig(**arguments, beta=task.beta), **common)


def trained(task: Task, pairs: list[Pair]) -> tuple[Recorder, Trainer]:
    """One epoch over ``pairs`` from the task's weights."""
    model = AutoModelForCausalLM.from_pretrained(
        task.model_folder, dtype=getattr(torch, task.dtype), attn_implementation=task.peer_attention
    ).to(task.device)
    recorder = Recorder(task.device)
    with tempfile.TemporaryDirectory() as output_dir:
        peer = trainer(task, model, pairs, output_dir, recorder)
        if task.adapter_folder:
            drawn = load_file(f"{task.adapter_folder}/adapter_model.safetensors")
            assert not set_peft_model_state_dict(peer.model, drawn).unexpected_keys
        peer.train()
    return recorder, peer


def main(task_path: str, result_path: str) -> None:
    """Train one epoch of the task and write losses, seconds and peak memory."""
    task = Task.load(task_path)
    torch.set_num_threads(task.threads)
    if task.warm_up_steps:
        trained(task, task.pairs()[: task.warm_up_steps * task.pairs_per_step])
    reset_peak_memory(task.device)
    recorder, peer = trained(task, task.pairs())
    Run(
        losses=recorder.losses,
        step_seconds=[end - start for start, end in pairwise(recorder.times)],
        peak_rss_bytes=peak_rss_bytes(),
        peak_device_bytes=peak_device_bytes(task.device),
        settings={key: value for key, value in peer.args.to_dict().items() if isinstance(value, str | int | float)},
    ).save(result_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
