"""A training stage to be estimated, and the steps, tokens and operations that it comes to.

Operations are multiplications and additions, each counted. A forward pass takes two for every weight that a token
meets and four for every feature of every key it attends to; a backward pass takes twice as many. A prompt that several
answers share is computed once. Kaplan et al., arXiv 2001.08361, section 2.1.
"""

import math
from dataclasses import dataclass

from zephyr.estimate.model_shape import ModelShape
from zephyr.estimate.row_lengths import RowLengths
from zephyr.recipe.objective_section import SyncedObjective
from zephyr.recipe.stage_sections import SftSection, TrainingSection
from zephyr.recipe.steps import Steps, count_steps
from zephyr.recipe.train_section import LoraSection, TrainSection


@dataclass(frozen=True)
class Workload:
    """A training stage: its name and section in the recipe, the sizes of its model, and its rows."""

    stage: str
    section: TrainingSection
    shape: ModelShape
    rows: RowLengths

    @property
    def train(self) -> TrainSection:
        """The stage's hyper-parameters."""
        return self.section.train

    @property
    def lora(self) -> LoraSection | None:
        """The stage's adapters; None where all weights are trained."""
        return self.section.lora

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with a reference model."""
        return self.section.objective.needs_reference

    @property
    def moves_reference(self) -> bool:
        """Whether the reference model changes during training, so that it stays in memory."""
        objective = self.section.objective
        return isinstance(objective, SyncedObjective) and objective.reference_sync_steps is not None

    @property
    def examples_per_step(self) -> int:
        """Rows of one optimizer step."""
        if isinstance(self.section, SftSection):
            return self.section.dialogues_per_step(self.rows.tokens)
        return self.train.train_batch_size

    @property
    def steps(self) -> Steps:
        """Optimizer steps, as the training loop counts them."""
        return count_steps(self.train, max(1, self.rows.num_rows), batch_size=self.examples_per_step)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.steps.num_steps

    @property
    def num_epochs(self) -> float:
        """Passes over the rows."""
        return (
            self.train.num_train_epochs if self.train.max_steps is None else self.num_steps / self.steps.steps_per_epoch
        )

    @property
    def trained_tokens(self) -> float:
        """Tokens of all steps."""
        return self.num_epochs * self.rows.num_rows * self.rows.tokens

    @property
    def trained_parameters(self) -> int:
        """Weights that get gradients."""
        return self.shape.parameters if self.lora is None else adapter_parameters(self.lora, self.shape)

    @property
    def recomputed_layers(self) -> int:
        """Layers that the backward pass computes again; selective checkpointing computes no product again."""
        every = self.train.recomputes_every
        return 0 if every is None else self.shape.num_layers // every

    @property
    def num_evaluations(self) -> int:
        """How often the held-out rows are evaluated: at the end, and every `eval_steps`."""
        if not self.rows.held_out:
            return 0
        if self.train.eval_steps is None:
            return 1
        return math.ceil(self.num_steps / self.train.eval_steps)


def adapter_parameters(lora: LoraSection, shape: ModelShape) -> int:
    """Number of weights of the adapters; where no gate and no experts are among their targets, those of attention."""
    heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    ends = 2 * (shape.hidden_size + heads) + 2 * (shape.hidden_size + kv_heads)
    if lora.target_modules == "all-linear" or any(_is_feed_forward(name) for name in lora.target_modules):
        # Experts in one weight have their gates' and their own projections in one of twice the rank.
        outer = 3 if shape.gated else 2
        inner = 5 if shape.gated and shape.num_experts > 1 else outer
        ends += shape.num_experts * (outer * shape.hidden_size + inner * shape.intermediate_size)
    num_layers = shape.num_layers if lora.layers_to_transform is None else len(set(lora.layers_to_transform))
    return lora.r * ends * num_layers


def _is_feed_forward(name: str) -> bool:
    """Whether a target module is a part of the feed-forward block besides its last projection."""
    return "gate" in name or name.rpartition(".")[2] in ("experts", "w1")


def forward_flops(shape: ModelShape, rows: RowLengths, *, shared: bool = True) -> float:
    """Operations of one forward pass over one row. Not `shared`: with the prompt before every answer."""
    prompt, answer, count = rows.prompt_tokens, rows.completion_tokens, rows.num_completions
    num_prompts = 1 if shared else count
    tokens = rows.tokens if shared else rows.repeated_tokens
    keys = num_prompts * _keys(0, prompt, shape) + count * _keys(prompt, answer, shape)
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * keys
    return 2 * shape.multiplied_parameters * tokens + attention + _head_flops(shape, rows)


def _head_flops(shape: ModelShape, rows: RowLengths) -> float:
    scored = rows.num_completions * rows.completion_tokens * rows.scored_share
    return 2 * shape.vocab_size * shape.hidden_size * scored


def train_flops(workload: Workload, *, shared: bool = True) -> float:
    """Operations of forward and backward pass over one row: three forward passes, and what is computed again.

    Adapters save the gradients of the weights below them.
    """
    backward = 2.0 if workload.lora is None else 1.0
    found = (1 + backward) * forward_flops(workload.shape, workload.rows, shared=shared)
    return found + workload.recomputed_layers / workload.shape.num_layers * _recomputed_flops(workload, shared=shared)


def _recomputed_flops(workload: Workload, *, shared: bool) -> float:
    """Operations of a second forward pass of all layers over one row.

    It ends before a layer's last product, which no gradient needs, unless experts are weighed or adapters come after
    it. (In Gemma 2 and 3 a norm does, which is not counted.)
    """
    shape, rows = workload.shape, workload.rows
    layers = forward_flops(shape, rows, shared=shared) - _head_flops(shape, rows)
    if shape.num_experts > 1 or workload.lora is not None:
        return layers
    tokens = rows.tokens if shared else rows.repeated_tokens
    return layers - 2 * shape.num_layers * shape.hidden_size * shape.intermediate_size * tokens


def stage_flops(workload: Workload, *, as_usual: bool = False) -> float:
    """Operations of the whole stage: steps, evaluations and the reference.

    `as_usual`: with prompts computed for every answer and the reference in every step, as trainers usually do.
    """
    rows = workload.rows
    forward = forward_flops(workload.shape, rows, shared=not as_usual)
    steps = workload.num_epochs * rows.num_rows * train_flops(workload, shared=not as_usual)
    evaluations = workload.num_evaluations * rows.held_out * forward
    if not workload.needs_reference:
        return steps + evaluations
    once = min(1.0, workload.num_epochs) * rows.num_rows + rows.held_out  # of the rows that a step sees
    every_time = workload.num_epochs * rows.num_rows + workload.num_evaluations * rows.held_out
    return steps + evaluations + forward * (every_time if as_usual else once)


def _keys(before: float, tokens: float, shape: ModelShape) -> float:
    """Keys that `tokens` tokens after `before` others attend to, summed; half a token more is themselves."""
    mean = before + (tokens + 1) / 2
    return tokens * (mean if shape.sliding_window is None else min(mean, shape.sliding_window))
