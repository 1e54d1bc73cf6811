"""How a judge is asked to rate texts, and how its reply is read: no model, no network, no torch."""

from zephyr.judging.aspects import ASPECTS, OVERALL, ParseFailure, Rating, RatingQuestion
from zephyr.judging.parsing import parse_reply
from zephyr.judging.questions import TEMPLATE_VERSION, ask, fence_word, read_question
from zephyr.judging.replies import write_reply

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
