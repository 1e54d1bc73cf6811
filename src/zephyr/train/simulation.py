"""One training step of one rank on tensors without data: what it holds at its peak, sends, and computes.

The step is the one that training takes, on torch's fake tensors, sharded over a fake process group of the planned
size, with the kernels of a CUDA device. No weight exists, so a model of any size is simulated on any machine. Not in
the numbers: the allocator's gaps, workspaces inside kernels, and the driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from zephyr.data.tokenize.token_store import Example
from zephyr.models.batch_scoring import my_micro_batches
from zephyr.models.scorer import CausalLM, ForestScorer, Kernels, plain_model
from zephyr.recipe.train_section import TrainSection
from zephyr.train.job import build_scorer
from zephyr.train.ledger import MemoryLedger, Traffic
from zephyr.train.moving_reference import moving_reference
from zephyr.train.objectives import Objective
from zephyr.train.optimizers import build_optimizer
from zephyr.train.step import Batch, accumulate_gradients, clip_gradients, make_batch
from zephyr.trees.attention import pick_attention
from zephyr.trees.flex import flex_forest_attention
from zephyr.trees.forest import Forest
from zephyr.trees.score import ACCELERATOR_CHUNK_BYTES
from zephyr.trees.varlen import varlen_attention

# The kernels of Ampere and later.
CAPABILITY = (8, 0)
# A backward pass of attention multiplies twice as much as its forward pass, not counting what it recomputes.
BACKWARD = 2


class SimulatedStep(NamedTuple):
    """Bytes of one rank by kind when it holds most, and what its step sends and computes.

    ``tokens``: of each of the rank's micro-batches. ``traffic`` by name of the collective call.
    """

    peak: dict[str, int]
    peak_phase: str
    tokens: list[int]
    traffic: dict[str, Traffic]
    flops: float

    @property
    def peak_bytes(self) -> int:
        """All kinds together."""
        return sum(self.peak.values())


def simulate_step(
    model: CausalLM, train: TrainSection, objective: Objective, examples: Sequence[Example], *, num_ranks: int
) -> SimulatedStep:
    """A step of rank 0 with ``examples`` as its batch, after the first: the optimizer has its state.

    ``model`` is on the meta device in the dtype of its weights, and is used up.
    """
    with _ranks(num_ranks):
        work = _AttentionWork(keeps_products=train.activation_checkpointing == "selective")
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake:
            model.to_empty(device="cpu")
            plain_model(model).tie_weights()
        kernels = Kernels(work.attention, ACCELERATOR_CHUNK_BYTES)
        scorer = build_scorer(model, train, torch.device("cpu"), kernels)
        ledger = MemoryLedger(vocab_size=plain_model(model).config.get_text_config().vocab_size)
        ledger.hold("weights", scorer.parameters())
        optimizer = build_optimizer(scorer, train)
        with fake:
            moving = moving_reference(objective, scorer, None)
        ledger.hold("reference", () if moving is None else moving.weights.values())
        batch = _batch(objective, examples)
        tokens = [
            sum(batch.sizes[index] for index in indices)
            for indices in my_micro_batches(batch.sizes, max_tokens=train.max_tokens_per_micro_batch)
        ]
        with fake, ledger:
            _make_state(optimizer, ledger)
            ledger.start_counting()
            _step(scorer, optimizer, batch, train, ledger)
    peak, phase = ledger.at_peak()
    return SimulatedStep(peak, phase, tokens, dict(ledger.traffic), ledger.flops + work.flops)


def _batch(objective: Objective, examples: Sequence[Example]) -> Batch:
    examples = objective.arranged(examples)
    columns = objective.labels(examples).shape[1]
    before = torch.zeros(len(examples), columns, dtype=torch.float64) if objective.needs_reference else None
    return make_batch(objective, examples, before)


def _step(scorer: ForestScorer, optimizer: Optimizer, batch: Batch, train: TrainSection, ledger: MemoryLedger) -> None:
    """An optimizer step, as in ``zephyr.train.train``."""
    ledger.phase = "forward and backward"
    accumulate_gradients(scorer, batch, train)
    ledger.hold("gradients", (each.grad for each in scorer.parameters() if each.grad is not None))
    ledger.phase = "clipping"
    clip_gradients(scorer, train.max_grad_norm)
    ledger.phase = "update"
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _make_state(optimizer: Optimizer, ledger: MemoryLedger) -> None:
    """Make the optimizer's state, by a step whose gradients nothing has computed."""
    ledger.phase = "update"
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state = [value for one in optimizer.state.values() for value in one.values() if isinstance(value, Tensor)]
    ledger.hold("optimizer", state)


@contextmanager
def _ranks(num_ranks: int) -> Iterator[None]:
    """Inside, this process is rank 0 of a process group whose other ranks hold and send what it does."""
    if num_ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


class _AttentionWork:
    """The attention of a CUDA device, and the operations of its calls, which torch's counter does not know."""

    def __init__(self, *, keeps_products: bool) -> None:
        self.flops = 0.0
        self._keeps_products = keeps_products

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        forest: Forest,
        *,
        scaling: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """``zephyr.trees.attention.forest_attention``; FlexAttention, which needs a compiler, has a stand-in."""
        query, key = query.to(value.dtype), key.to(value.dtype)
        attend = pick_attention(query, value, forest, softcap, capability=CAPABILITY)
        if attend is flex_forest_attention:
            attended: Tensor = _FlexMemory.apply(query, key, value)  # type: ignore[no-untyped-call]
        else:
            attended = attend(query, key, value, forest, scaling=scaling, window=window, softcap=softcap)
        flops = 4.0 * query.shape[1] * query.shape[3] * seen_keys(forest, window)
        recomputes = torch._C._current_graph_task_id() != -1  # noqa: SLF001  # within a backward pass
        if not (recomputes and self._keeps_products and attend is varlen_attention):
            self.flops += flops
        if attended.requires_grad:
            attended.register_hook(lambda _: self._add(BACKWARD * flops))  # type: ignore[no-untyped-call]
        return attended

    def _add(self, flops: float) -> None:
        self.flops += flops


def seen_keys(forest: Forest, window: int | None) -> int:
    """The pairs of a query and a key that it sees, of all tokens of a forest."""
    least = [
        min(position + 1, window or position + 1) for c in forest.chains for position in range(c.path_length, c.depth)
    ]
    return sum(least)


class _FlexMemory(torch.autograd.Function):
    """What FlexAttention allocates and keeps, without its numbers."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, attended, query.new_empty(query.shape[:3], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _attended, scale = ctx.saved_tensors
        _delta = (torch.empty_like(scale), gradient)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
