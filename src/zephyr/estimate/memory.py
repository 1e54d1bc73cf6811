"""What one accelerator holds while a stage trains, part by part, with all weights sharded over the accelerators.

Attention is computed without its scores and the loss without its logits, so neither appears; what the logits would
take is told beside. Estimates: measured use may differ by a fifth.
"""

import math
from typing import NamedTuple

from zephyr.estimate.devices import Device
from zephyr.estimate.work import Training

WEIGHT_BYTES = {"float32": 4, "bf16": 4, "pure_bf16": 2}
COMPUTE_BYTES = {"float32": 4, "bf16": 2, "pure_bf16": 2}
# Of nf4: half a byte, and the scales of its blocks of 64.
NF4_BYTES = 0.5 + 4 / 64
# Moments by optimizer, in units of a weight; None: two of one byte and their scales.
_MOMENTS = {"adamw_torch": 2, "rmsprop": 1, "adamw_bnb_8bit": None, "adamw_torchao_8bit": None}
EIGHT_BIT_BYTES = 2 + 2 * 4 / 256
LOSS_CHUNK_BYTES = 256 << 20
# What the driver, its libraries and the allocator's gaps take.
RUNTIME_BYTES = 3 << 29
GAPS_SHARE = 0.05


class Memory(NamedTuple):
    """Bytes on one accelerator."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float  # weights of the layers at work, from all shards, or their copies in the dtype of computing
    activations: float
    loss: float
    reference: float
    runtime: float
    logits_avoided: float  # no part of the sum

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self[:-1])

    def fits(self, device: Device) -> bool:
        """Whether the device holds it."""
        return self.total <= device.memory_bytes


def memory_of(training: Training, num_devices: int) -> Memory:
    """What each of so many accelerators holds at the worst moment of a step."""
    shape, held = training.shape, WEIGHT_BYTES[training.precision]
    computed = COMPUTE_BYTES[training.precision]
    trained = training.trained_parameters
    tokens = micro_batch_tokens(training, num_devices)
    scored = min(1.0, training.rows.num_completions * training.rows.completion_tokens / max(1.0, training.rows.tokens))
    weights = _weight_bytes(training)
    chunk = min(LOSS_CHUNK_BYTES, tokens * scored * shape.vocab_size * computed)
    memory = Memory(
        weights=weights / num_devices,
        gradients=trained * held / num_devices,
        optimizer=trained * moment_bytes(training) / num_devices,
        gathered=_gathered(training, num_devices),
        activations=tokens * activation_bytes(training),
        loss=chunk + 2 * 4 * tokens * shape.hidden_size,
        reference=weights / num_devices if training.moving_reference else 0.0,
        runtime=0.0,
        logits_avoided=tokens * scored * shape.vocab_size * 4,
    )
    return memory._replace(runtime=RUNTIME_BYTES + GAPS_SHARE * memory.total)


def micro_batch_tokens(training: Training, num_devices: int) -> float:
    """Tokens of the largest pass: as many as may be, but no more than a device's part of a batch."""
    of_a_batch = training.train_batch_size * training.rows.tokens / num_devices
    # One row is never cut, however many devices there are.
    longest = training.max_length * max(1.0, training.rows.tokens / _longest(training))
    return min(training.max_tokens_per_micro_batch, max(of_a_batch, longest))


def moment_bytes(training: Training) -> float:
    """Bytes of the optimizer's state for one weight."""
    moments = _MOMENTS[training.optim]
    return EIGHT_BIT_BYTES if moments is None else moments * WEIGHT_BYTES[training.precision]


def activation_bytes(training: Training) -> float:
    """Bytes kept for the backward pass of one token.

    Of a layer: its input, what the two norms keep in float32, queries, keys, values and what they give, the residual
    sum, and the feed-forward block's inner products. Recomputing keeps the inputs, and one layer in full.
    """
    shape, size = training.shape, COMPUTE_BYTES[training.precision]
    attention = (2 * shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    inner = (4 if shape.gated else 2) * shape.intermediate_size * shape.experts_per_token
    of_a_layer = size * (4 * shape.hidden_size + attention + inner) + 2 * 4 * shape.hidden_size
    if not training.activation_checkpointing:
        return shape.num_layers * of_a_layer
    # While the layer is gone back through, its gradients stand beside it.
    return shape.num_layers * size * shape.hidden_size + 1.5 * of_a_layer


def _weight_bytes(training: Training) -> float:
    """Bytes of all weights on all devices together."""
    shape, adapters = training.shape, training.adapters
    held = WEIGHT_BYTES[training.precision]
    if adapters is None:
        return shape.parameters * held
    layers = shape.num_layers * shape.layer_parameters
    below = layers * NF4_BYTES + (shape.parameters - layers) * 2 if adapters.in_4bit else shape.parameters * held
    return below + adapters.parameters(shape) * held


def _gathered(training: Training, num_devices: int) -> float:
    shape, computed = training.shape, COMPUTE_BYTES[training.precision]
    if num_devices > 1:
        # The layer at work and the next one, and the tables, which stay.
        return (2 * shape.layer_parameters + shape.table_parameters) * computed
    in_4bit = training.adapters is not None and training.adapters.in_4bit
    if training.precision != "bf16" or in_4bit:
        return 0.0
    return shape.parameters * computed  # autocast keeps what it has cast until the pass is over


def _longest(training: Training) -> float:
    rows = training.rows
    return max(1.0, rows.prompt_tokens + rows.completion_tokens)


def smallest_number(training: Training, device: Device, most: int = 4096) -> int | None:
    """The smallest power of two of such devices that holds the stage; None if not even `most` do."""
    numbers = (2**power for power in range(int(math.log2(most)) + 1))
    return next((number for number in numbers if memory_of(training, number).fits(device)), None)
