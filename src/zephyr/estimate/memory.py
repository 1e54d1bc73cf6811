"""What one accelerator holds while a stage trains, part by part, and what to change where that does not fit.

All weights are sharded over the accelerators. Attention is computed without storing its scores and the loss without
storing its logits, so neither appears; what the logits would take is named beside. Measured use may differ by a fifth.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from zephyr.estimate.devices import Device
from zephyr.estimate.workload import Workload, adapter_parameters
from zephyr.recipe.section import Plain
from zephyr.recipe.stage_sections import PretrainSection
from zephyr.recipe.train_section import LoraSection, TrainSection

WEIGHT_BYTES = {"float64": 8, "float32": 4, "bf16": 4, "pure_bf16": 2}
COMPUTE_BYTES = {"float64": 8, "float32": 4, "bf16": 2, "pure_bf16": 2}
# Of nf4: half a byte, and the scales of its blocks of 64.
NF4_BYTES = 0.5 + 4 / 64
# Numbers that an optimizer keeps of a weight; those of the others depend on more than the weight.
_MOMENTS = {"adamw_torch": 2, "rmsprop": 1, "lion": 1, "schedule_free_adamw": 2, "schedule_free_sgd": 1}
EIGHT_BIT_BYTES = 2 + 2 * 4 / 256
LOSS_CHUNK_BYTES = 256 << 20
# What the driver, its libraries and the allocator's gaps take.
RUNTIME_BYTES = 3 << 29
GAPS_SHARE = 0.05
# During a layer's backward pass its gradients are held beside what it kept.
WORKING_SHARE = 1.5
_REDUCED_BYTES = {"float32": 4, "bfloat16": 2}
MAX_DEVICES = 4096
# Settings of activation checkpointing between none and all, the fewest operations computed again first.
_LESS_THAN_ALL: tuple[str | int, ...] = ("selective", 4, 3, 2)
Change: TypeAlias = Callable[[Workload], Workload]


class Memory(NamedTuple):
    """Bytes on one accelerator."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float  # weights of the layers at work, from all shards, or their copies in the dtype of computing
    reduced: float  # gradients of one layer, whole, before and while they are added up over the accelerators
    activations: float
    loss: float
    reference: float
    runtime: float
    logits_avoided: float  # not in the total

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self[:-1])

    def fits(self, device: Device) -> bool:
        """Whether the device holds it."""
        return self.total <= device.memory_bytes


def memory_of(workload: Workload, num_devices: int) -> Memory:
    """What each of `num_devices` accelerators holds at the worst moment of a step.

    That is the beginning of a backward pass, with all activations and either the loss or the first gradients on their
    way to the sum, or its end, with all gradients; where a step has several micro-batches, the second begins with all
    gradients. `zephyr.simulation` is the measure of it.
    """
    shape, rows = workload.shape, workload.rows
    held, computed = WEIGHT_BYTES[workload.train.precision], COMPUTE_BYTES[workload.train.precision]
    trained = workload.trained_parameters
    tokens = micro_batch_tokens(workload, num_devices)
    scored = min(1.0, rows.num_completions * rows.completion_tokens / max(1.0, rows.tokens))
    weights = _weight_bytes(workload)
    chunk = min(LOSS_CHUNK_BYTES, tokens * scored * shape.vocab_size * computed)
    gradients, accumulates = trained * held / num_devices, num_micro_batches(workload, num_devices) > 1
    begins = Memory(
        weights=weights / num_devices,
        gradients=gradients if accumulates else 0.0,
        optimizer=trained * moment_bytes(workload) / num_devices,
        gathered=_gathered(workload, num_devices),
        reduced=_reduced(workload, num_devices),
        activations=tokens * activation_bytes(workload),
        loss=chunk + 2 * 4 * tokens * shape.hidden_size,
        reference=weights / num_devices if workload.moves_reference else 0.0,
        runtime=0.0,
        logits_avoided=tokens * scored * shape.vocab_size * 4,
    )
    ends = begins._replace(gradients=gradients, activations=tokens * WORKING_SHARE * layer_bytes(workload), loss=0.0)
    memory = max(begins._replace(reduced=0.0), begins._replace(loss=0.0), ends, key=lambda one: one.total)
    return memory._replace(runtime=RUNTIME_BYTES + GAPS_SHARE * memory.total)


def micro_batch_tokens(workload: Workload, num_devices: int) -> float:
    """Tokens of the largest forward pass: the budget, but no more than a device's share of a batch."""
    rows = workload.rows
    of_a_batch = workload.examples_per_step * rows.tokens / num_devices
    # One row is never split, however many devices there are.
    longest = workload.section.data.max_length * max(1.0, rows.tokens / max(1.0, rows.sequence_tokens))
    return min(workload.train.max_tokens_per_micro_batch, max(of_a_batch, longest))


def num_micro_batches(workload: Workload, num_devices: int) -> int:
    """Micro-batches of an optimizer step on each device."""
    of_a_device = workload.examples_per_step * workload.rows.tokens / num_devices
    return max(1, math.ceil(of_a_device / micro_batch_tokens(workload, num_devices)))


def moment_bytes(workload: Workload) -> float:
    """Bytes of the optimizer's state for one weight."""
    train, shape = workload.train, workload.shape
    if train.optim == "adamw_8bit":
        return EIGHT_BIT_BYTES
    if train.optim == "muon":  # whose embedding and head have Adam's
        moments = 1 + (0.0 if workload.lora is not None else shape.table_parameters / shape.parameters)
    elif train.optim == "adafactor":
        moments = 1 / shape.hidden_size + 1 / (shape.hidden_size if workload.lora is None else workload.lora.r)
    else:
        moments = _MOMENTS[train.optim]
    return moments * WEIGHT_BYTES[train.precision]


def activation_bytes(workload: Workload) -> float:
    """Bytes kept for the backward pass of one token.

    Of layers that are computed again it is their input, and one layer in full; those behind the last of them are done
    with before that one is.
    """
    shape, size = workload.shape, COMPUTE_BYTES[workload.train.precision]
    a_layer = layer_bytes(workload)
    if workload.train.activation_checkpointing == "selective":
        kept = shape.hidden_size + _product_features(workload)
        return shape.num_layers * size * kept + WORKING_SHARE * a_layer
    every, again = workload.train.recomputes_every, workload.recomputed_layers
    if every is None or not again:
        return shape.num_layers * a_layer
    behind = shape.num_layers % every
    return again * size * shape.hidden_size + (shape.num_layers - again + max(0.0, WORKING_SHARE - behind)) * a_layer


def layer_bytes(workload: Workload) -> float:
    """Bytes that one layer keeps of one token for the backward pass.

    They are its input, what the two norms keep in float32, queries, keys, values and what they give, the residual sum,
    and the feed-forward block's inner products.
    """
    shape, size = workload.shape, COMPUTE_BYTES[workload.train.precision]
    attention = (2 * shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    inner = (4 if shape.gated else 2) * shape.intermediate_size * shape.experts_per_token
    return size * (4 * shape.hidden_size + attention + inner) + 2 * 4 * shape.hidden_size


def _product_features(workload: Workload) -> int:
    """Numbers of one token that a layer's matrix products and its attention give."""
    shape = workload.shape
    attention = 2 * (shape.num_heads + shape.num_kv_heads) * shape.head_dim + shape.hidden_size
    inner = (2 if shape.gated else 1) * shape.intermediate_size + shape.hidden_size
    return attention + inner * shape.experts_per_token


def reduced_bytes(train: TrainSection) -> int:
    """Bytes of a gradient while it is added up over accelerators."""
    return max(8 if train.precision == "float64" else 0, _REDUCED_BYTES[train.reduce_dtype])


def smallest_number(workload: Workload, device: Device, most: int = MAX_DEVICES) -> int | None:
    """The smallest power of two of such devices that holds the stage; None if not even `most` do."""
    numbers = (2**power for power in range(int(math.log2(most)) + 1))
    return next((number for number in numbers if memory_of(workload, number).fits(device)), None)


def advice(workload: Workload, device: Device, num_devices: int) -> list[str]:
    """Changes that make the stage fit, the least one first; empty where it fits already.

    Settings that change no result come first, then those that do, then more devices, then adapters.
    """
    if memory_of(workload, num_devices).fits(device):
        return []
    settings = _fewest_settings(workload, device, num_devices)
    found = [] if settings is None else [settings]
    enough = smallest_number(workload, device)
    if enough is not None:
        found.append(f"--gpus {enough}")
    if workload.lora is None and not isinstance(workload.section, PretrainSection):
        small = _changed(_one_row(workload), {"activation_checkpointing": True})
        section = small.section.model_copy(update={"lora": LoraSection(r=16, load_in_4bit=True)})
        if memory_of(replace(small, section=section), num_devices).fits(device):
            found.append(
                f"{workload.stage}.lora={{r: 16, load_in_4bit: true}} with activation_checkpointing and "
                f"max_tokens_per_micro_batch={small.train.max_tokens_per_micro_batch}, which trains adapters alone"
            )
    return found or ["a larger accelerator, or a smaller model"]


def _fewest_settings(workload: Workload, device: Device, num_devices: int) -> str | None:
    """The settings, in words, that make the stage fit; None where none do."""
    if workload.train.activation_checkpointing is not True:
        for part in _LESS_THAN_ALL:
            if part == "selective" and workload.train.compile:  # which refuse each other
                continue
            if memory_of(_changed(workload, {"activation_checkpointing": part}), num_devices).fits(device):
                return f"{workload.stage}.train.activation_checkpointing={part}"
    words: list[str] = []
    for setting, change in _savings(workload):
        words.append(setting)
        workload = change(workload)
        if memory_of(workload, num_devices).fits(device):
            return " and ".join(words)
    return None


def _savings(workload: Workload) -> Iterator[tuple[str, Change]]:
    """Settings that save memory, in words and as a change, the cheapest first."""
    key, train = f"{workload.stage}.train", workload.train
    if train.activation_checkpointing is not True:
        yield f"{key}.activation_checkpointing=true", lambda one: _changed(one, {"activation_checkpointing": True})
    few = _one_row(workload).train.max_tokens_per_micro_batch
    if few < train.max_tokens_per_micro_batch:
        yield f"{key}.max_tokens_per_micro_batch={few}", _one_row
    if train.optim == "adamw_torch":
        yield f"{key}.optim=adamw_8bit", lambda one: _changed(one, {"optim": "adamw_8bit"})
    if train.precision != "pure_bf16":
        yield f"{key}.precision=pure_bf16", lambda one: _changed(one, {"precision": "pure_bf16"})


def _changed(workload: Workload, settings: dict[str, Plain]) -> Workload:
    """The stage with other hyper-parameters."""
    train = workload.train.model_copy(update=settings)
    return replace(workload, section=workload.section.model_copy(update={"train": train}))


def _one_row(workload: Workload) -> Workload:
    """The stage with micro-batches of one longest row, its prompt once and every answer."""
    longest = workload.section.data.max_length * max(1, workload.rows.num_completions)
    return _changed(workload, {"max_tokens_per_micro_batch": min(longest, workload.train.max_tokens_per_micro_batch)})


def _weight_bytes(workload: Workload) -> float:
    """Bytes of all weights on all devices together."""
    shape, lora = workload.shape, workload.lora
    held = WEIGHT_BYTES[workload.train.precision]
    if lora is None:
        return shape.parameters * held
    layers = shape.num_layers * shape.layer_parameters
    base = layers * NF4_BYTES + (shape.parameters - layers) * 2 if lora.load_in_4bit else shape.parameters * held
    return base + adapter_parameters(lora, shape) * held


def _gathered(workload: Workload, num_devices: int) -> float:
    """Bytes of the copies of weights that a forward pass makes."""
    shape, precision = workload.shape, workload.train.precision
    if num_devices > 1:
        # The layer at work and the next one, and the tables, which stay.
        return (2 * shape.layer_parameters + shape.table_parameters) * COMPUTE_BYTES[precision]
    in_4bit = workload.lora is not None and workload.lora.load_in_4bit
    if precision != "bf16" or in_4bit:
        return 0.0
    return shape.parameters * COMPUTE_BYTES[precision]  # autocast keeps what it has cast until the pass is over


def _reduced(workload: Workload, num_devices: int) -> float:
    """Bytes of the largest unit's gradients: as the backward pass makes them, and copied to be added up."""
    if num_devices == 1:
        return 0.0
    shape, computed = workload.shape, COMPUTE_BYTES[workload.train.precision]
    unit = max(shape.layer_parameters, shape.table_parameters)
    if workload.lora is not None:
        unit = math.ceil(workload.trained_parameters / shape.num_layers)
    return unit * (computed + reduced_bytes(workload.train))
