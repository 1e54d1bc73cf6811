"""Cutting one optimizer step's examples into micro-batches by a budget of unique tokens."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

from zephyr.errors import DataError


def cut_micro_batches(
    sizes: Sequence[int], *, max_tokens: int, world_size: int = 1, names: Sequence[str] | None = None
) -> list[list[list[int]]]:
    """Micro-batches of example indices, as ``[rank][micro-batch] -> indices``.

    ``sizes``: unique tokens of each example's own forest. No micro-batch exceeds ``max_tokens``; every rank gets the
    same number of them (some may be empty, for a rank must take part in every collective call); examples go longest
    first into the lightest micro-batch (Graham's longest-processing-time rule), so ranks are balanced.
    Raises DataError naming the example that cannot fit.
    """
    for index, size in enumerate(sizes):
        if size > max_tokens:
            raise DataError(
                names[index] if names is not None else f"example {index}",
                f"holds {size} tokens, more than max_tokens_per_micro_batch = {max_tokens}",
                f"set max_tokens_per_micro_batch to at least {size}, or lower max_length",
            )
    longest_first = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    per_rank = max(1, -(-sum(sizes) // (max_tokens * world_size)))
    while (bins := _fill(sizes, longest_first, per_rank * world_size, max_tokens)) is None:
        per_rank += 1
    # Heaviest and lightest alternate between ranks, so that the ranks' sums stay close.
    bins.sort(key=lambda indices: -sum(sizes[index] for index in indices))
    ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
    for number, indices in enumerate(bins):
        turn, place = divmod(number, world_size)
        ranks[place if turn % 2 == 0 else world_size - 1 - place].append(indices)
    return ranks


def _fill(sizes: Sequence[int], order: Sequence[int], num_bins: int, max_tokens: int) -> list[list[int]] | None:
    """``num_bins`` lists of indices, each within ``max_tokens``; None if the rule overfills one."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [(0, number) for number in range(num_bins)]
    heapify(loads)
    for index in order:
        load, number = loads[0]
        if load + sizes[index] > max_tokens:
            return None
        bins[number].append(index)
        heapreplace(loads, (load + sizes[index], number))
    return bins
