"""The fault in UltraFeedback's overall scores, and its published repair.

A critique that ended in "Overall Score: 1" was stored as 10: the parser took 1 for a fraction, as in 8/10 = 0.8, and
multiplied it by ten. 2,628 completions carry a 10, good and damning ones alike; the ratings of the four aspects,
which another prompt asked for, tell them apart.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

FAULTY_SCORE = 10.0
SURELY_BAD = 2.0
SURELY_GOOD = 4.0


class Repair(NamedTuple):
    """A repaired overall score; None where only a judge who reads the stored critique again can tell."""

    score: float | None
    needs_judge: bool


def mean_rating(ratings: Iterable[float | None]) -> float | None:
    """Mean of the ratings that are numbers; None (N/A) ones do not count, and None comes back if there is no other."""
    numbers = [rating for rating in ratings if rating is not None and math.isfinite(rating)]
    return sum(numbers) / len(numbers) if numbers else None


def repair_overall_score(score: float | None, ratings: Iterable[float | None]) -> Repair:
    """What the overall `score` (1-10) should be, given the ratings (1-5) of the same completion's aspects.

    Only a 10 is in doubt: a mean rating up to 2 makes it a 1, one above 4 keeps it, and between them a judge is needed.
    The published script has no rule for a 10 without any rating; here it needs a judge too.
    OpenBMB/UltraFeedback, src/data_annotation/fix_overall_score_issue.py, 29 December 2023.
    """
    if score != FAULTY_SCORE:
        return Repair(score, needs_judge=False)
    mean = mean_rating(ratings)
    if mean is None or SURELY_BAD < mean <= SURELY_GOOD:
        return Repair(None, needs_judge=True)
    return Repair(1.0 if mean <= SURELY_BAD else FAULTY_SCORE, needs_judge=False)
