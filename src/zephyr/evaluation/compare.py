"""Runs compared item by item: differences over the items that both have, with far smaller intervals than two scores.

Judged values are compared by a bootstrap over prompts, accuracies by the exact McNemar test on the items where just
one of the two is right. Source: Miller 2024, arXiv 2411.00640, section 4.2; McNemar 1947, Psychometrika 12.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from zephyr.evaluation.results import Item, Result
from zephyr.intervals import difference_interval
from zephyr.records.fields import Json

ALL = "all"
# What differs between any two models, and is no deviation of protocol.
_OWN = frozenset({"model_hash", "opponent_hash", "swap_consistency"})


class Paired(NamedTuple):
    """One run against another on one task, in one category or in all: means over the `n` items that both have.

    `difference` is the second's mean minus the first's, with its 95 % interval over prompts, None where all differences
    are equal; `p` is that of the exact
    sign test (of McNemar's, for accuracies); `unpaired` counts items that one of them lacks.
    """

    task: str
    category: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float
    n: int
    unpaired: int


def paired_differences(first: Result, second: Result, *, seed: int = 0) -> list[Paired]:
    """The second run against the first, by task: all of it, then each category, where there are several."""
    of_first, of_second = (_by_name(result.items) for result in (first, second))
    tasks = dict.fromkeys(item.task for item in first.items if item.task in {other.task for other in second.items})
    found = []
    for task in tasks:
        by_category: dict[str, list[tuple[Item | None, Item | None]]] = {}
        for name in sorted(name for name in of_first.keys() | of_second.keys() if name[0] == task):
            pair = (of_first.get(name), of_second.get(name))
            category = (pair[0] or of_second[name]).category
            by_category.setdefault(category, []).append(pair)
        parts = {ALL: [pair for pairs in by_category.values() for pair in pairs]}
        parts |= by_category if len(by_category) > 1 else {}
        compared = [_paired(task, category, pairs, seed) for category, pairs in parts.items()]
        found += [one for one in compared if one is not None]
    return found


def exact_sign_test(num_better: int, num_worse: int) -> float:
    """The two-sided probability of so uneven a split, or a more uneven one, of items that differ by fair chance."""
    n, fewer = num_better + num_worse, min(num_better, num_worse)
    if num_better == num_worse:
        return 1.0
    ways, tail = 1, 0  # of choosing so many of n
    for count in range(fewer + 1):
        tail += ways
        ways = ways * (n - count) // (count + 1)
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def deviations(first: Mapping[str, Json], second: Mapping[str, Json]) -> list[str]:
    """How two protocols differ, in words; what one of them does not record is no deviation."""
    shared = sorted((first.keys() & second.keys()) - _OWN)
    return [
        f"{name.replace('_', ' ')}: {first[name]} against {second[name]}"
        for name in shared
        if first[name] != second[name]
    ]


_ItemsByName = Mapping[tuple[str, str], Item]


def _by_name(items: Sequence[Item]) -> _ItemsByName:
    return {(item.task, item.item): item for item in items}


def _paired(task: str, category: str, pairs: Sequence[tuple[Item | None, Item | None]], seed: int) -> Paired | None:
    there = [
        (one, one.value, other.value)
        for one, other in pairs
        if one is not None and other is not None and one.value is not None and other.value is not None
    ]
    if not there:
        return None
    differences = [second - first for _, first, second in there]
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(item.prompt, len(numbers)) for item, _, _ in there]
    low, high = difference_interval(differences, seed=seed, groups=groups)
    return Paired(
        task=task,
        category=category,
        first=math.fsum(first for _, first, _ in there) / len(there),
        second=math.fsum(second for _, _, second in there) / len(there),
        difference=math.fsum(differences) / len(there),
        low=low,
        high=high,
        p=_sign_test(differences, groups),
        n=len(there),
        unpaired=len(pairs) - len(there),
    )


def _sign_test(differences: Sequence[float], groups: Sequence[int]) -> float:
    """Over prompts: the items of one prompt are alike, and count once by the sign of their sum."""
    sums: dict[int, float] = {}
    for group, difference in zip(groups, differences, strict=True):
        sums[group] = sums.get(group, 0.0) + difference
    return exact_sign_test(sum(total > 0 for total in sums.values()), sum(total < 0 for total in sums.values()))
