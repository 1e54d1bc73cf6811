"""What a judge's written critique says of an answer: damning or praising words, and the rating it states itself.

The words were chosen on 3,273 critiques by GPT-4 with ratings of 1 to 10 (arena-bench-v1): of those with a 1, half are
told as damning, of the 1,526 with an 8, 9 or 10 none; none of the 1,054 with a 1, 2 or 3 is told as praising. So a
critique that is told one way beside a score that says the other is worth a look; one that is not told means little.
"""

import re
from typing import NamedTuple

READ_CHARACTERS = 1_500
FEWEST_WORDS = 3
OVERWEIGHT = 3

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


class Tone(NamedTuple):
    """How many damning and praising words a critique has."""

    damning: int
    praising: int

    @property
    def is_damning(self) -> bool:
        """Whether blame outweighs praise by far."""
        return self.damning >= FEWEST_WORDS and self.damning >= OVERWEIGHT * self.praising

    @property
    def is_praising(self) -> bool:
        """Whether there is praise and no blame: damning critiques, too, praise what the answer should have been."""
        return self.praising >= FEWEST_WORDS and not self.damning


def tone_of(critique: str) -> Tone:
    """The tone of the first part of a critique; what comes later is often an answer of the judge's own."""
    text = " ".join(critique.split())[:READ_CHARACTERS].lower()
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
