"""`zephyr plan --simulate`: a stage's own training step on tensors without data, beside the arithmetic of the plan.

The simulated micro-batches are as large as the plan's largest ones: rows of the stage's mean shape, made longer until
they fill them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from zephyr.data.tokenize.token_store import Comparison, Dialogue, Example
from zephyr.estimate.devices import Device
from zephyr.estimate.lines import GIB
from zephyr.estimate.memory import memory_of, micro_batch_tokens, num_micro_batches
from zephyr.estimate.model_shape import KNOWN_SHAPES, ModelShape
from zephyr.estimate.row_lengths import RowLengths
from zephyr.estimate.workload import Workload, train_flops
from zephyr.models.adapters import add_lora
from zephyr.models.loading import empty_model
from zephyr.models.new_model import weightless_model
from zephyr.models.reward_model import reward_model_of
from zephyr.models.scorer import CausalLM
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.stage_sections import PreferenceSection, RewardSection
from zephyr.recipe.train_section import TrainSection
from zephyr.stages.start import base_source
from zephyr.train.distributed import weights_dtype
from zephyr.train.objectives import build_objective
from zephyr.train.simulation import SimulatedStep, simulate_step

# Gradients exist from the second one on; more of them hold no more.
MICRO_BATCHES = 2
# Token ids that no vocabulary lacks; that two rows begin alike by chance saves few tokens.
SMALLEST_VOCABULARY = 250
# What is left out by setting it to 0, and what that changes.
_LEFT_OUT = {
    "compile": "compiled layers may hold less and be faster",
    "router_aux_loss_coef": "the balance loss keeps some numbers a token, and adds a forward pass where a rank has "
    "several micro-batches",
}
_COLLECTIVES = {"c10d._allgather_base_": "gathers", "c10d._reduce_scatter_base_": "reductions"}


class Simulation(NamedTuple):
    """A simulated step of a stage, its ``rows``, and how many micro-batches a real step has."""

    step: SimulatedStep
    workload: Workload
    rows: RowLengths
    num_ranks: int
    micro_batches: int

    @property
    def flops(self) -> float:
        """Operations of a rank's step."""
        return self.step.flops * self.micro_batches / len(self.step.tokens)

    @property
    def arithmetic_bytes(self) -> float:
        """Bytes of a rank by arithmetic, without what no simulation sees."""
        memory = memory_of(self.workload, self.num_ranks)
        return memory.total - memory.runtime

    @property
    def arithmetic_flops(self) -> float:
        """Operations of a rank's step by arithmetic."""
        of_a_micro_batch = self.rows.num_rows / self.num_ranks / len(self.step.tokens)
        return of_a_micro_batch * self.micro_batches * train_flops(replace(self.workload, rows=self.rows))


def simulate(recipe: Recipe, workload: Workload, *, num_ranks: int) -> Simulation:
    """A step of a training stage of the recipe on `num_ranks` accelerators. Raises ModelError."""
    micro_batches = num_micro_batches(workload, num_ranks)
    rows = _filled(workload, num_ranks, min(MICRO_BATCHES, micro_batches))
    examples = _examples(workload, rows)
    train = workload.train.model_copy(update=dict.fromkeys(_left_out(workload.train), 0))
    objective = build_objective(workload.section.objective, examples, data_dir=recipe.data_dir)
    step = simulate_step(_model(recipe, workload), train, objective, examples, num_ranks=num_ranks)
    return Simulation(step, workload, rows, num_ranks, micro_batches)


def simulation_lines(recipe: Recipe, workload: Workload, *, num_ranks: int, device: Device | None) -> Iterator[str]:
    """Lines about a simulated step: bytes by kind beside the arithmetic, room on the device, traffic, operations."""
    if workload.lora is not None and workload.lora.load_in_4bit:
        yield "not simulated: 4-bit weights need bitsandbytes on a CUDA device"
        return
    if left_out := _left_out(workload.train):
        yield f"simulated without {' and '.join(left_out)}: {'; '.join(_LEFT_OUT[name] for name in left_out)}"
    found = simulate(recipe, workload, num_ranks=num_ranks)
    step, arithmetic = found.step, found.arithmetic_bytes
    kinds = ", ".join(f"{kind} {size / GIB:,.2f}" for kind, size in step.peak.items() if size >= GIB / 100)
    yield (
        f"simulated on {num_ranks} ranks, micro-batches of {max(step.tokens):,} tokens: rank 0 holds at most "
        f"{step.peak_bytes / GIB:,.2f} GiB, in {step.peak_phase}: {kinds}"
    )
    yield f"by arithmetic {arithmetic / GIB:,.2f} GiB, {arithmetic / step.peak_bytes - 1:+.0%}"
    if device is not None:
        verdict = "fits" if step.peak_bytes <= device.memory_bytes else "does not fit"
        room = f"{step.peak_bytes / GIB:,.1f} of {device.memory_bytes / GIB:,.0f} GiB"
        yield f"{verdict}: {room}, without driver and gaps"
    share = found.micro_batches / len(step.tokens)
    sent = [
        f"{step.traffic[key].calls * share:,.0f} {name} of {step.traffic[key].num_bytes * share / 1e9:,.1f} GB"
        for key, name in _COLLECTIVES.items()
        if key in step.traffic
    ]
    work = ", ".join([*sent, f"{found.flops:.2e} operations"])
    by_arithmetic = f"by arithmetic {found.arithmetic_flops:.2e}"
    yield f"a step on a rank, of {found.micro_batches} micro-batches: {work}; {by_arithmetic}"


def _left_out(train: TrainSection) -> list[str]:
    """The settings in force that no simulation covers."""
    return [name for name in _LEFT_OUT if getattr(train, name)]


def _filled(workload: Workload, num_ranks: int, micro_batches: int) -> RowLengths:
    """Rows of the mean shape, stretched until they fill so many micro-batches of the largest size on each rank."""
    rows, tokens = workload.rows, micro_batch_tokens(workload, num_ranks)
    number = max(1, round(tokens / max(1.0, rows.tokens)))
    factor = tokens / number / rows.tokens
    prompt, completion = (int(factor * length) for length in (rows.prompt_tokens, rows.completion_tokens))
    num_rows = number * num_ranks * micro_batches
    return replace(rows, num_rows=num_rows, prompt_tokens=prompt, completion_tokens=max(2, completion))


def _examples(workload: Workload, rows: RowLengths) -> Sequence[Example]:
    random = np.random.default_rng(0)

    def ids(number: float) -> "np.typing.NDArray[np.int64]":
        return random.integers(0, SMALLEST_VOCABULARY, int(number))

    if isinstance(workload.section, PreferenceSection):
        ratings = tuple(float(-number) for number in range(rows.num_completions))
        prompt, answer = max(1, rows.prompt_tokens), rows.completion_tokens
        return [
            Comparison(f"row {row}", ids(prompt), tuple(ids(answer) for _ in ratings), ratings)
            for row in range(rows.num_rows)
        ]
    length = int(rows.tokens)
    scored = np.arange(length) >= max(1, length - int(rows.scored_share * rows.completion_tokens))
    return [Dialogue(f"row {row}", ids(length), scored) for row in range(rows.num_rows)]


def _model(recipe: Recipe, workload: Workload) -> CausalLM:
    """The model that the stage trains, on the meta device."""
    dtype, model = weights_dtype(workload.train), recipe.model
    known = isinstance(model, NewModel) or model.name_or_path in KNOWN_SHAPES
    if known:
        architecture = model.architecture if isinstance(model, NewModel) else None
        found = weightless_model(*_configuration(workload.shape, architecture), dtype=dtype)
    else:
        found = empty_model(base_source(recipe), dtype=str(dtype).removeprefix("torch."))
    if isinstance(workload.section, RewardSection):
        found = reward_model_of(found)
    return found if workload.lora is None else add_lora(found, workload.lora)


def _configuration(shape: ModelShape, architecture: str | None) -> tuple[str, dict[str, int | None]]:
    """An architecture of such a shape, the named one if one is, and the fields of its configuration."""
    experts = {"num_local_experts": shape.num_experts, "num_experts_per_tok": shape.experts_per_token}
    plain = "mistral" if shape.gated else "starcoder2"
    return architecture or ("mixtral" if shape.num_experts > 1 else plain), {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "sliding_window": shape.sliding_window,
        **(experts if shape.num_experts > 1 else {}),
    }
