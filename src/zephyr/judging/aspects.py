"""What can be rated, on which scale, and the records of question, rating and failure."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from zephyr.errors import did_you_mean
from zephyr.records.messages import Messages

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
OVERALL = "overall"

FailureReason = Literal["cut off", "headings", "fields", "rating", "range", "verdict"]


class Scale(NamedTuple):
    """The numbers an aspect may have."""

    low: float
    high: float
    optional: bool = False  # "N/A" is a rating too
    typed: bool = False  # the kinds of fault or merit may be listed before the rating


# Scales and fields of UltraFeedback: arXiv 2310.01377
SCALES = {
    "instruction_following": Scale(1, 5),
    "honesty": Scale(1, 5, optional=True),
    "truthfulness": Scale(1, 5, typed=True),
    "helpfulness": Scale(1, 5, typed=True),
    OVERALL: Scale(1, 10),
}


class RatingQuestion(NamedTuple):
    """Texts to rate by one aspect: all answers to a conversation at once, or one answer for "overall".

    `notes` is what the judge is told besides: knowledge of the world, or the principle the answer was to follow.
    """

    aspect: str
    conversation: Messages
    answers: tuple[str, ...]
    notes: str = ""


class Rating(NamedTuple):
    """One text's rating; score None is "N/A". `types` and their rationale are of typed aspects only."""

    score: float | None
    rationale: str
    types: tuple[int, ...] = ()
    type_rationale: str = ""


@dataclass(frozen=True)
class ParseFailure:
    """Why a reply holds no ratings: a reason to count by, and what was found."""

    reason: FailureReason
    detail: str


def scale_of(aspect: str) -> Scale:
    """The scale of an aspect; ValueError for an unknown one."""
    if aspect not in SCALES:
        raise ValueError(f"no aspect '{aspect}'{did_you_mean(aspect, SCALES)}")
    return SCALES[aspect]
