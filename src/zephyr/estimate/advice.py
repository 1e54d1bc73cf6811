"""What to change where a stage does not fit: settings that alter no result first, then those that do, then machines."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from zephyr.estimate.devices import Device
from zephyr.estimate.memory import memory_of, smallest_number
from zephyr.estimate.work import Adapters, Training

MANY = 4096
Change: TypeAlias = Callable[[Training], Training]


def advice(training: Training, device: Device, num_devices: int) -> list[str]:
    """Changes that make the stage fit, the least one first; empty where it fits already."""
    if memory_of(training, num_devices).fits(device):
        return []
    found = []
    done: list[str] = []
    changed = training
    for words, better in _savings(training):
        done.append(words)
        changed = better(changed)
        if memory_of(changed, num_devices).fits(device):
            found.append(" and ".join(done))
            break
    enough = smallest_number(training, device, most=MANY)
    if enough is not None:
        found.append(f"--gpus {enough}")
    if training.adapters is None:
        small = replace(_few_tokens(training), activation_checkpointing=True, adapters=Adapters(16, in_4bit=True))
        if memory_of(small, num_devices).fits(device):
            found.append(
                f"{training.stage}.lora={{r: 16, load_in_4bit: true}} with activation_checkpointing and "
                f"max_tokens_per_micro_batch={small.max_tokens_per_micro_batch}, which trains adapters alone"
            )
    return found or ["a larger accelerator, or a smaller model"]


def _savings(training: Training) -> Iterator[tuple[str, Change]]:
    """Settings that save memory, in words and as a change, those that cost least first."""
    key = f"{training.stage}.train"
    if not training.activation_checkpointing:
        yield f"{key}.activation_checkpointing=true", lambda one: replace(one, activation_checkpointing=True)
    few = _few_tokens(training).max_tokens_per_micro_batch
    if few < training.max_tokens_per_micro_batch:
        yield f"{key}.max_tokens_per_micro_batch={few}", _few_tokens
    if training.optim == "adamw_torch":
        yield f"{key}.optim=adamw_bnb_8bit", lambda one: replace(one, optim="adamw_bnb_8bit")
    if training.precision != "pure_bf16":
        yield f"{key}.precision=pure_bf16", lambda one: replace(one, precision="pure_bf16")


def _few_tokens(training: Training) -> Training:
    """The stage with micro-batches of one longest row, prompt once and every answer."""
    longest = training.max_length * max(1, training.rows.num_completions)
    return replace(training, max_tokens_per_micro_batch=min(longest, training.max_tokens_per_micro_batch))
