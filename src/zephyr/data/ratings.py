"""What the scores, ratings and written critique of an answer say about each other.

UltraFeedback's overall scores have a fault with a published repair: a critique that ended in "Overall Score: 1" was
stored as 10, since the parser took 1 for a fraction, as in 8/10 = 0.8, and multiplied it by ten. 2,628 completions
carry a 10, good and bad ones alike; the ratings of the four aspects, which another prompt asked for, tell them apart.

The words of critiques were chosen on 3,273 critiques by GPT-4 with ratings of 1 to 10 (arena-bench-v1). Of those with
a 1, half are detected as damning, of the 1,526 with an 8, 9 or 10 none; none of the 1,054 with a 1, 2 or 3 is detected
as praising. So a critique that contradicts its score is worth a look; a critique without a tone means little.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

FAULTY_SCORE = 10.0
SURELY_BAD = 2.0
SURELY_GOOD = 4.0
_READ_CHARACTERS = 1_500
_FEWEST_WORDS = 3
_OVERWEIGHT = 3

_DAMNING = re.compile(
    r"\b(?:incorrect(?:ly)?|wrong(?:ly)?|inaccurate(?:ly)?|irrelevant|nonsensical|nonsense|misleading|useless|unhelpful"
    r"|incoherent|off-topic|fail(?:s|ed)? to|(?:do|does|did)(?: not|n't) (?:answer|address|follow|provide|meet)"
    r"|not (?:accurate|correct|relevant|helpful|useful|an? (?:correct|accurate))|errors?|mistakes?|hallucinat\w+"
    r"|fabricat\w+|contradict\w*|poor(?:ly)?|lacks?|lacking|missing|misunderst\w+|misinterpret\w*|incomplete|flaw\w*)\b"
)
_PRAISING = re.compile(
    r"\b(?:excellent(?:ly)?|accurate(?:ly)?|comprehensive(?:ly)?|well[- ](?:structured|written|explained|done)"
    r"|correct(?:ly)?|clear(?:ly)?|helpful|detailed|thorough(?:ly)?|great|good|perfect(?:ly)?|strong|effective(?:ly)?"
    r"|informative|insightful|relevant|engaging|useful|creative|coherent|impressive|outstanding)\b"
)
# "Not very helpful" and "could be more detailed" are no praise.
_TAKEN_BACK = re.compile(r"(?:\bnot|n't|\bnever|\bless|\bmore|\bshould be|\bwithout)(?: \w+){0,2} $")
_STATED = re.compile(
    r"\[\[(\d+(?:\.\d+)?)\]\]|\b(?:overall score|rating|score)\W{0,6}(\d+(?:\.\d+)?)(?!\d|\s*%|\s*/\s*(?!10\b)\d)",
    re.IGNORECASE,
)


class ScoreRepair(NamedTuple):
    """A repaired overall score; None where only a judge who reads the stored critique again can tell."""

    score: float | None
    needs_judge: bool


def mean_rating(ratings: Iterable[float | None]) -> float | None:
    """Mean of the ratings that are numbers; None (N/A) ones do not count, and None comes back if there is no other."""
    numbers = [rating for rating in ratings if rating is not None and math.isfinite(rating)]
    return sum(numbers) / len(numbers) if numbers else None


def repair_overall_score(score: float | None, ratings: Iterable[float | None]) -> ScoreRepair:
    """What the overall `score` (1-10) should be, given the ratings (1-5) of the same completion's aspects.

    Only a 10 is in doubt: a mean rating up to 2 makes it a 1, one above 4 keeps it, and between them a judge is needed.
    The published script has no rule for a 10 without any rating; here it needs a judge too.
    OpenBMB/UltraFeedback, src/data_annotation/fix_overall_score_issue.py, 29 December 2023.
    """
    if score != FAULTY_SCORE:
        return ScoreRepair(score, needs_judge=False)
    mean = mean_rating(ratings)
    if mean is None or SURELY_BAD < mean <= SURELY_GOOD:
        return ScoreRepair(None, needs_judge=True)
    return ScoreRepair(1.0 if mean <= SURELY_BAD else FAULTY_SCORE, needs_judge=False)


class Tone(NamedTuple):
    """How many damning and praising words a critique has."""

    damning: int
    praising: int

    @property
    def is_damning(self) -> bool:
        """Whether blame outweighs praise by far."""
        return self.damning >= _FEWEST_WORDS and self.damning >= _OVERWEIGHT * self.praising

    @property
    def is_praising(self) -> bool:
        """Whether there is praise and no blame: damning critiques, too, praise what the answer should have been."""
        return self.praising >= _FEWEST_WORDS and not self.damning


def tone_of(critique: str) -> Tone:
    """The tone of the first part of a critique; what comes later is often an answer of the judge's own."""
    text = " ".join(critique.split())[:_READ_CHARACTERS].lower()
    praise = [
        found
        for found in _PRAISING.finditer(text)
        if not _TAKEN_BACK.search(text, max(0, found.start() - 30), found.start())
    ]
    return Tone(len(_DAMNING.findall(text)), len(praise))


def stated_rating(critique: str) -> float | None:
    """The rating that a critique states in its own text, the last one if there are several."""
    stated = _STATED.findall(critique)
    return float(stated[-1][0] or stated[-1][1]) if stated else None
