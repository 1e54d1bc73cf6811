"""Questions to a judge and the parsing of its replies: no model, no network, no torch."""

from zephyr.judging.parsing import ParseFailure, Rating, parse_reply, write_reply
from zephyr.judging.questions import (
    ASPECTS,
    OVERALL,
    TEMPLATE_VERSION,
    RatingQuestion,
    ask,
    fence_word,
    read_question,
)

__all__ = [
    "ASPECTS",
    "OVERALL",
    "TEMPLATE_VERSION",
    "ParseFailure",
    "Rating",
    "RatingQuestion",
    "ask",
    "fence_word",
    "parse_reply",
    "read_question",
    "write_reply",
]
