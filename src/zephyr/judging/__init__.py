"""Questions to a judge and the parsing of its replies: no model, no network, no torch."""

from zephyr.judging.parsing import ParseFailure, Rating, parse_reply, write_reply
from zephyr.judging.questions import (
    ASPECTS,
    JUDGE_TEMPLATE_VERSION,
    OVERALL,
    AspectWording,
    RatingQuestion,
    ask,
    fence_word,
    read_rating_question,
    required_word,
)

__all__ = [
    "ASPECTS",
    "JUDGE_TEMPLATE_VERSION",
    "OVERALL",
    "AspectWording",
    "ParseFailure",
    "Rating",
    "RatingQuestion",
    "ask",
    "fence_word",
    "parse_reply",
    "read_rating_question",
    "required_word",
    "write_reply",
]
