"""Shares of independent draws with their intervals."""

import math
from typing import NamedTuple

NORMAL_95 = 1.959963984540054


class Share(NamedTuple):
    """A share with its 95 % interval."""

    share: float
    low: float
    high: float
    n: int


def wilson(wins: float, n: int) -> Share:
    """The share `wins` / `n` with Wilson's 95 % interval; `wins` may hold halves, for what is undecided.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22; Brown, Cai and DasGupta 2001 on why not the plain normal one.
    """
    share, z2 = wins / n, NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding alone can push an end past the value it must enclose.
    return Share(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)), n)
