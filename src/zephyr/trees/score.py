"""Log-probabilities of a forest's edges from hidden states and the head's weight, without the logits of a row.

Logits exist for one chunk of edges at a time. What the backward pass needs of them (the unnormalised softmax) is kept
for the first ``KEEP_BYTES`` and computed again beyond that, so memory is bounded whatever the vocabulary and length.
"""

from __future__ import annotations

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


def _precision(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, head: Head) -> Tensor:
    """(rows, V) logits in float32 (float64 for float64 inputs), a fresh tensor that may be changed in place."""
    bias = head.bias
    logits = hidden @ head.weight.T if bias is None else torch.addmm(bias, hidden, head.weight.T)
    logits = logits.to(_precision(hidden))
    if head.scale != 1.0:
        logits.mul_(head.scale)
    return logits if head.softcap is None else logits.div_(head.softcap).tanh_().mul_(head.softcap)


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
        wants_gradient = any(ctx.needs_input_grad[:3])
        logps, normaliser = (hidden.new_empty(len(hidden), dtype=_precision(hidden)) for _ in range(2))
        spread = logps.new_zeros(2, len(logps))
        kept: list[Tensor] = []
        budget = KEEP_BYTES if wants_gradient and softcap is None else 0
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            logits = _logits(inputs[here], head)
            _score_chunk(logits, targets[here], logps[here], normaliser[here])
            if with_entropy:
                spread[0, here] = _entropies(logits, normaliser[here])
                spread[1, here] = torch.linalg.vecdot(logits, logits).log() - 2 * normaliser[here].log()
            budget -= logits.nbytes
            if budget >= 0:
                kept.append(logits)  # by now exp(logit - largest)
        ctx.save_for_backward(inputs, weight, bias, targets, normaliser)
        ctx.kept, ctx.rows, ctx.head_options, ctx.hidden_dtype = (
            kept,
            rows,
            (dtype, scale, softcap),
            hidden.dtype,
        )
        ctx.mark_non_differentiable(spread)
        return logps, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, _grad_spread: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, bias, targets, normaliser = ctx.saved_tensors
        dtype, scale, softcap = ctx.head_options
        head = Head(weight.to(dtype), None if bias is None else bias.to(dtype), scale, softcap)
        precision = _precision(inputs)
        grad_hidden = torch.empty_like(inputs)
        # Summed over chunks in at least float32: bfloat16 partial sums would bias the gradient.
        grad_weight = torch.zeros_like(weight, dtype=precision) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=precision) if ctx.needs_input_grad[2] else None
        for number, start in enumerate(range(0, len(inputs), ctx.rows)):
            here = slice(start, start + ctx.rows)
            if number < len(ctx.kept) and ctx.kept[number] is not None:
                softmax, ctx.kept[number] = (
                    ctx.kept[number],
                    None,
                )  # used up: a second backward computes it again
                grad_logits = _chunk_gradient(softmax, None, targets[here], normaliser[here], grad_logps[here])
            else:
                logits = _logits(inputs[here], head)
                slope = None if softcap is None else 1 - (logits / softcap) ** 2
                softmax = logits.sub_(logits.amax(1, keepdim=True)).exp_()
                grad_logits = _chunk_gradient(softmax, slope, targets[here], normaliser[here], grad_logps[here])
            if scale != 1.0:
                grad_logits.mul_(scale)
            lowered = grad_logits.to(dtype)
            torch.mm(lowered, head.weight, out=grad_hidden[here])
            if grad_weight is not None:
                _accumulate_product(grad_weight, lowered, inputs[here])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_hidden.to(ctx.hidden_dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _score_chunk(logits: Tensor, targets: Tensor, logps: Tensor, normaliser: Tensor) -> None:
    """Fill a chunk's ``logps`` and ``normaliser`` (sum of exponentials); ``logits`` become exp(logit - largest)."""
    largest = logits.amax(1, keepdim=True)
    logits.sub_(largest)
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    torch.sum(logits.exp_(), dim=1, out=normaliser)
    torch.sub(chosen, normaliser.log(), out=logps)


def _entropies(exponentials: Tensor, normaliser: Tensor) -> Tensor:
    """(rows,) entropy of softmax rows given exp(logit - largest) and its row sums."""
    entropies: Tensor = torch.special.entr(exponentials / normaliser[:, None]).sum(1)
    return entropies


def _chunk_gradient(
    exponentials: Tensor, slope: Tensor | None, targets: Tensor, normaliser: Tensor, grad_logps: Tensor
) -> Tensor:
    """(rows, V) gradient with respect to the logits before the cap, made in place of ``exponentials``."""
    gradient = exponentials.mul_((-grad_logps / normaliser)[:, None])
    gradient.scatter_add_(1, targets[:, None], grad_logps[:, None])
    return gradient if slope is None else gradient.mul_(slope)


def _accumulate_product(total: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """Add grad_logits.T @ hidden to ``total``."""
    if total.dtype == grad_logits.dtype:
        total.addmm_(grad_logits.T, hidden)
    else:
        total += grad_logits.T @ hidden
