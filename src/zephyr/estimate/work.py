"""What a training stage is to do, in plain values, and the steps, tokens and operations that it comes to.

Operations are multiplications and additions, each counted. A pass forward takes two for every weight that a token
meets and four for every feature of every key it attends to; a pass backward takes twice as many. Prompts that several
answers share are computed once. Kaplan et al., arXiv 2001.08361, section 2.1.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from zephyr.estimate.shapes import ModelShape

Precision = Literal["float32", "bf16", "pure_bf16"]


@dataclass(frozen=True)
class RowLengths:
    """How many rows there are, and how long one is on average, in tokens.

    Each of `num_completions` answers follows the same prompt. `held_out`: rows that are only measured.
    """

    num_rows: int
    prompt_tokens: float
    completion_tokens: float
    num_completions: int = 1
    held_out: int = 0
    scored_share: float = 1.0  # of the answers' tokens, those that are learned

    @property
    def tokens(self) -> float:
        """Tokens of a row with its prompt once."""
        return self.prompt_tokens + self.num_completions * self.completion_tokens

    @property
    def repeated_tokens(self) -> float:
        """Tokens of a row with its prompt before every answer."""
        return self.num_completions * (self.prompt_tokens + self.completion_tokens)


@dataclass(frozen=True)
class Adapters:
    """LoRA of this rank on all linear layers or on attention alone; the weights below in four bits, or in two bytes."""

    rank: int
    attention_only: bool = False
    in_4bit: bool = False

    def parameters(self, shape: ModelShape) -> int:
        """Weights of the adapters."""
        heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        ends = 2 * (shape.hidden_size + heads) + 2 * (shape.hidden_size + kv_heads)
        if not self.attention_only:
            ends += shape.num_experts * (3 if shape.gated else 2) * (shape.hidden_size + shape.intermediate_size)
        return self.rank * ends * shape.num_layers


@dataclass(frozen=True)
class Training:
    """A training stage in plain values; see `zephyr.train.settings` for the names."""

    stage: str
    shape: ModelShape
    rows: RowLengths
    train_batch_size: int
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    max_tokens_per_micro_batch: int = 8192
    max_length: int = 1024
    precision: Precision = "bf16"
    optim: str = "adamw_torch"
    activation_checkpointing: bool = False
    eval_steps: int | None = None
    has_reference: bool = False
    moving_reference: bool = False
    adapters: Adapters | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a pass over the rows."""
        return math.ceil(self.rows.num_rows / self.train_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(self.steps_per_epoch * self.num_train_epochs)

    @property
    def num_passes(self) -> float:
        """Rows that are trained on, counted as often as that happens, over the rows there are."""
        return self.num_train_epochs if self.max_steps is None else self.num_steps / self.steps_per_epoch

    @property
    def trained_tokens(self) -> float:
        """Tokens of all steps."""
        return self.num_passes * self.rows.num_rows * self.rows.tokens

    @property
    def trained_parameters(self) -> int:
        """Weights that get gradients."""
        return self.shape.parameters if self.adapters is None else self.adapters.parameters(self.shape)

    @property
    def num_evaluations(self) -> int:
        """How often the held-out rows are measured: at the end, and every `eval_steps`."""
        if not self.rows.held_out:
            return 0
        if self.eval_steps is None:
            return 1
        return math.ceil(self.num_steps / self.eval_steps)


def forward_flops(shape: ModelShape, rows: RowLengths, *, shared: bool = True) -> float:
    """Operations of one pass forward over one row. Not `shared`: with the prompt before every answer."""
    prompt, answer, count = rows.prompt_tokens, rows.completion_tokens, rows.num_completions
    num_prompts = 1 if shared else count
    tokens = rows.tokens if shared else rows.repeated_tokens
    keys = num_prompts * _keys(0, prompt, shape) + count * _keys(prompt, answer, shape)
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * keys
    head = 2 * shape.vocab_size * shape.hidden_size * count * answer * rows.scored_share
    return 2 * shape.multiplied_parameters * tokens + attention + head


def train_flops(training: Training, *, shared: bool = True) -> float:
    """Operations of forward and backward over one row: three times those of forward, with recomputing four.

    Adapters leave out the gradients of the weights below them.
    """
    backward = 2.0 if training.adapters is None else 1.0
    again = 1.0 if training.activation_checkpointing else 0.0
    return (1 + backward + again) * forward_flops(training.shape, training.rows, shared=shared)


def stage_flops(training: Training, *, as_usual: bool = False) -> float:
    """Operations of the whole stage: steps, evaluations and the reference.

    `as_usual`: with prompts computed for every answer and the reference in every step, as trainers usually do.
    """
    rows = training.rows
    forward = forward_flops(training.shape, rows, shared=not as_usual)
    steps = training.num_passes * rows.num_rows * train_flops(training, shared=not as_usual)
    evaluations = training.num_evaluations * rows.held_out * forward
    if not training.has_reference:
        return steps + evaluations
    once = rows.num_rows + rows.held_out
    every_time = training.num_passes * rows.num_rows + training.num_evaluations * rows.held_out
    return steps + evaluations + forward * (every_time if as_usual else once)


def _keys(before: float, tokens: float, shape: ModelShape) -> float:
    """Keys that `tokens` tokens after `before` others attend to, all together; half a token more is themselves."""
    mean = before + (tokens + 1) / 2
    return tokens * (mean if shape.sliding_window is None else min(mean, shape.sliding_window))
