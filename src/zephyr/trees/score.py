"""Log-probabilities of a forest's edges from hidden states and the head's weight, without the logits of a row.

Logits exist for one chunk of edges at a time. For the backward pass they are kept as the product gave them, up to
``KEEP_BYTES``, and computed again beyond that, so memory is bounded whatever the vocabulary and length. A chunk is as
large as matrix products want it; its softmax, in float32, is made block by block, as small as a CPU's cache wants them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zephyr.trees.forest import Forest

# One chunk of logits: measured on two CPU cores and a 32,000 vocabulary, smaller chunks starve the matrix products.
CHUNK_BYTES = {"cpu": 64 << 20}
ACCELERATOR_CHUNK_BYTES = 256 << 20
KEEP_BYTES = 512 << 20
# One block of a chunk in float32; elsewhere a chunk is one block.
SOFTMAX_BYTES = {"cpu": 2 << 20}


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * (hidden @ weight.T + bias)), cap(z) = softcap * tanh(z / softcap).

    ``weight`` (V, H), ``bias`` (V,) or None; both may carry gradients.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class SequenceScores(NamedTuple):
    """Sums and means over each sequence's scored tokens; N sequences.

    ``logps`` (N,) float64 sums of log-probabilities, differentiable, or the rewards of a reward model; ``num_tokens``
    (N,) int64; ``mean_logits`` (N,) mean raw logit over scored positions and the whole vocabulary. If asked,
    ``entropies`` (N,) mean entropy in nats, and ``collisions`` (N,) sums of log sum_v p_v^2, the log-probability that
    two samples are the same token.
    """

    logps: Tensor
    num_tokens: Tensor
    mean_logits: Tensor
    entropies: Tensor | None = None
    collisions: Tensor | None = None


def score(
    hidden: Tensor, head: Head, forest: Forest, *, with_entropy: bool = False, chunk_bytes: int | None = None
) -> SequenceScores:
    """The scores of a forest's sequences from its last hidden states (T, H).

    A sequence that owns no edge has log-probability 0 and means 0. ``chunk_bytes``: size of a chunk of logits; None:
    what suits the device.
    """
    edge_hidden = hidden.index_select(0, forest.edge_source)
    targets = forest.edge_target
    logps, spread = edge_logps(edge_hidden, head, targets, with_entropy=with_entropy, chunk_bytes=chunk_bytes)
    num_tokens = torch.zeros(forest.num_sequences, dtype=torch.int64, device=hidden.device)
    num_tokens.index_add_(0, forest.member_sequence, torch.ones_like(forest.member_sequence))
    return SequenceScores(
        logps=_sums(logps, forest),
        num_tokens=num_tokens,
        mean_logits=_sums(_mean_logits(edge_hidden.detach(), head), forest) / num_tokens.clamp(min=1),
        entropies=None if spread is None else _sums(spread[0], forest) / num_tokens.clamp(min=1),
        collisions=None if spread is None else _sums(spread[1], forest),
    )


def score_ends(hidden: Tensor, head: Head, forest: Forest) -> SequenceScores:
    """The rewards of a forest's sequences, read at their last tokens, from hidden states (T, H) and a head (1, H).

    An empty sequence has reward 0. The product is made in at least float32, whatever the hidden states are.
    """
    precision, is_there = _precision(hidden), forest.last >= 0
    ends = hidden.index_select(0, forest.last.clamp(min=0)).to(precision)
    # Not a matrix product, which autocast would make in 16 bits.
    rewards = (ends * head.weight[0].to(precision)).sum(1).double()
    return SequenceScores(rewards * is_there, is_there.long(), torch.zeros_like(rewards.detach()))


def edge_logps(
    hidden: Tensor, head: Head, targets: Tensor, *, with_entropy: bool = False, chunk_bytes: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """(E,) log-probability of each target under its row of ``hidden`` (E, H).

    If asked also (2, E): entropies, and the logs of the sums of squared probabilities.
    """
    options = (head.scale, head.softcap, with_entropy, _rows(head.weight, hidden, chunk_bytes))
    logps, spread = _EdgeLogps.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, options
    )
    return logps, spread if with_entropy else None


class EdgePredictions(NamedTuple):
    """``logps`` (E,) log-probability of each target; ``is_best`` (E,) whether it is the likeliest token."""

    logps: Tensor
    is_best: Tensor


def predict_edges(hidden: Tensor, head: Head, sources: Tensor, targets: Tensor) -> EdgePredictions:
    """What the rows ``sources`` (E,) of ``hidden`` (T, H) predict of ``targets`` (E,), without gradients.

    A row that many edges leave is projected once. The likeliest of equal tokens is the first, as argmax has it.
    """
    used, row_of_edge = torch.unique(sources, return_inverse=True)
    by_row = torch.argsort(row_of_edge, stable=True)
    rows_in_order = row_of_edge[by_row].cpu()
    logps = hidden.new_empty(len(sources), dtype=_precision(hidden))
    is_best = torch.empty(len(sources), dtype=torch.bool, device=hidden.device)
    # No softmax is kept for a backward pass, so small chunks cost nothing.
    step = max(1, _rows(head.weight, hidden) // 4)
    for start in range(0, len(used), step):
        bounds = torch.searchsorted(rows_in_order, torch.tensor([start, start + step])).tolist()
        edges = by_row[bounds[0] : bounds[1]]
        logits = _logits(hidden[used[start : start + step]].to(head.weight.dtype), head)
        largest, best = logits.max(1)
        row, target = row_of_edge[edges] - start, targets[edges]
        chosen = logits[row, target] - largest[row]
        logps[edges] = chosen - logits.sub_(largest[:, None]).exp_().sum(1).log()[row]
        is_best[edges] = best[row] == target
    return EdgePredictions(logps, is_best)


def _sums(edge_values: Tensor, forest: Forest) -> Tensor:
    # Sums over hundreds of tokens are differenced later (policy - reference); float64 keeps what float32 would lose.
    values = edge_values.double() if edge_values.device.type != "mps" else edge_values
    sums = values.new_zeros(forest.num_sequences)
    return sums.index_add(0, forest.member_sequence, values.index_select(0, forest.member_edge))


def _mean_logits(hidden: Tensor, head: Head) -> Tensor:
    """(E,) mean logit over the vocabulary; linear without a soft cap, so one dot product an edge."""
    with torch.no_grad():
        precision = _precision(hidden)
        if head.softcap is None:
            means = hidden.to(precision) @ head.weight.mean(0, dtype=precision)
            bias = 0.0 if head.bias is None else head.bias.mean(dtype=precision)
            return head.scale * (means + bias)
        chunks = torch.split(hidden.to(head.weight.dtype), _rows(head.weight, hidden))
        return torch.cat([_logits(chunk, head).mean(1) for chunk in chunks] or [hidden.new_zeros(0)])


def _rows(weight: Tensor, hidden: Tensor, chunk_bytes: int | None = None) -> int:
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(hidden.device.type, ACCELERATOR_CHUNK_BYTES)
    return max(1, chunk_bytes // (weight.shape[0] * _precision(hidden).itemsize))


def _blocks(products: Tensor, start: int) -> Iterator[tuple[Tensor, slice]]:
    """The blocks of a chunk (rows, V), each with its place among all edges; the chunk begins at ``start``."""
    row_bytes = products.shape[1] * _precision(products).itemsize
    size = max(1, SOFTMAX_BYTES.get(products.device.type, ACCELERATOR_CHUNK_BYTES) // row_bytes)
    for block in torch.split(products, size):
        yield block, slice(start, start + len(block))
        start += len(block)


def _precision(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _products(hidden: Tensor, head: Head) -> Tensor:
    """(rows, V) logits before scale and cap, in the dtype of the weight."""
    return hidden @ head.weight.T if head.bias is None else torch.addmm(head.bias, hidden, head.weight.T)


def _scaled(products: Tensor, head: Head) -> Tensor:
    """(rows, V) logits in float32 (float64 for float64 inputs), a fresh tensor that may be changed in place."""
    logits = products.to(_precision(products), copy=True)
    if head.scale != 1.0:
        logits.mul_(head.scale)
    return logits if head.softcap is None else logits.div_(head.softcap).tanh_().mul_(head.softcap)


def _logits(hidden: Tensor, head: Head) -> Tensor:
    """The same of hidden states (rows, H) of the weight's dtype."""
    return _scaled(_products(hidden, head), head)


class _EdgeLogps(torch.autograd.Function):
    """log softmax(logits)[target] by chunks; a row's gradient is g (onehot - softmax), folded into two products."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        options: tuple[float, float | None, bool, int],
    ) -> tuple[Tensor, Tensor]:
        scale, softcap, with_entropy, rows = options
        # Under autocast the products run in the lower precision; parameters themselves stay as they are.
        autocast = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else weight.dtype
        head = Head(weight.to(dtype), None if bias is None else bias.to(dtype), scale, softcap)
        inputs = hidden.to(dtype)
        logps, largest, normaliser = (hidden.new_empty(len(hidden), dtype=_precision(hidden)) for _ in range(3))
        spread = logps.new_zeros(2, len(logps))
        kept: list[Tensor | None] = []
        budget = KEEP_BYTES if any(ctx.needs_input_grad[:3]) else 0
        for start in range(0, len(hidden), rows):
            products = _products(inputs[start : start + rows], head)
            for block, here in _blocks(products, start):
                exponentials = _scaled(block, head)
                torch.amax(exponentials, 1, out=largest[here])
                exponentials.sub_(largest[here, None])
                chosen = exponentials.gather(1, targets[here, None]).squeeze(1)
                torch.sum(exponentials.exp_(), dim=1, out=normaliser[here])
                torch.sub(chosen, normaliser[here].log(), out=logps[here])
                if with_entropy:
                    spread[0, here] = _entropies(exponentials, normaliser[here])
                    sums_of_squares = torch.linalg.vecdot(exponentials, exponentials)
                    spread[1, here] = sums_of_squares.log() - 2 * normaliser[here].log()
            budget -= products.nbytes
            if budget >= 0:
                kept.append(products)
        ctx.save_for_backward(inputs, weight, bias, targets, largest, normaliser)
        ctx.kept, ctx.rows, ctx.head_options, ctx.hidden_dtype = kept, rows, (dtype, scale, softcap), hidden.dtype
        ctx.mark_non_differentiable(spread)
        return logps, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, _grad_spread: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, bias, targets, largest, normaliser = ctx.saved_tensors
        dtype, scale, softcap = ctx.head_options
        head = Head(weight.to(dtype), None if bias is None else bias.to(dtype), scale, softcap)
        precision = _precision(inputs)
        grad_hidden = torch.empty_like(inputs)
        # Summed over chunks in at least float32: bfloat16 partial sums would bias the gradient.
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=precision) if ctx.needs_input_grad[2] else None
        for number, start in enumerate(range(0, len(inputs), ctx.rows)):
            chunk = slice(start, start + ctx.rows)
            kept = ctx.kept[number] if number < len(ctx.kept) else None
            if kept is not None:
                ctx.kept[number] = None  # used up: a second backward computes it again
            products = _products(inputs[chunk], head) if kept is None else kept
            for block, here in _blocks(products, start):
                scores = (targets[here], largest[here], normaliser[here], grad_logps[here])
                gradient = _block_gradient(_scaled(block, head), head, *scores)
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                block.copy_(gradient)
            torch.mm(products, head.weight, out=grad_hidden[chunk])
            if ctx.needs_input_grad[1]:
                grad_weight = _plus_product(grad_weight, products, inputs[chunk])
        if ctx.needs_input_grad[1] and grad_weight is None:
            grad_weight = torch.zeros_like(weight)
        return (
            grad_hidden.to(ctx.hidden_dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _entropies(exponentials: Tensor, normaliser: Tensor) -> Tensor:
    """(rows,) entropy of softmax rows given exp(logit - largest) and its row sums."""
    entropies: Tensor = torch.special.entr(exponentials / normaliser[:, None]).sum(1)
    return entropies


def _block_gradient(
    logits: Tensor, head: Head, targets: Tensor, largest: Tensor, normaliser: Tensor, grad_logps: Tensor
) -> Tensor:
    """(rows, V) gradient with respect to the products, made in place of ``logits``."""
    slope = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
    gradient = logits.sub_(largest[:, None]).exp_().mul_((-grad_logps / normaliser)[:, None])
    gradient.scatter_add_(1, targets[:, None], grad_logps[:, None])
    if slope is not None:
        gradient.mul_(slope)
    return gradient if head.scale == 1.0 else gradient.mul_(head.scale)


def _plus_product(total: Tensor | None, grad_logits: Tensor, hidden: Tensor) -> Tensor:
    """``total``, or nothing yet, plus grad_logits.T @ hidden, in at least float32."""
    if total is not None and total.dtype == grad_logits.dtype:
        return total.addmm_(grad_logits.T, hidden)
    product = grad_logits.T @ hidden
    return product.to(_precision(hidden)) if total is None else total.add_(product)
