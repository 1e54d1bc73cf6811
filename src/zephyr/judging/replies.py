"""Replies as a judge is asked to write them: for judges that are rules, and for tests."""

import re
from collections.abc import Sequence

from zephyr.judging.aspects import OVERALL, Rating, scale_of
from zephyr.judging.parsing import STRUCTURE


def write_reply(aspect: str, ratings: Sequence[Rating]) -> str:
    """The reply that `parse_reply` reads as these ratings.

    Lines of a rationale that could be taken for structure are marked as quotes, with "> " before them; outer
    blanks go.
    """
    scale = scale_of(aspect)
    if aspect == OVERALL:
        (rating,) = ratings
        return f"{_quoted(rating.rationale)}\n\nOverall Score: {_number(rating)}".lstrip()
    blocks = []
    for number, rating in enumerate(ratings, start=1):
        types = ", ".join(str(kind) for kind in rating.types) or "None"
        typed = f"Type: {types}\nRationale: {_quoted(rating.type_rationale)}\n" if scale.typed else ""
        verdict = f"Rating: {_number(rating)}\nRationale: {_quoted(rating.rationale)}"
        blocks.append(f"#### Output for Text {number}\n{typed}{verdict}")
    return "\n\n".join(blocks)


def _number(rating: Rating) -> str:
    return "N/A" if rating.score is None else f"{rating.score:g}"


def _quoted(rationale: str) -> str:
    lines = rationale.strip().replace("\r\n", "\n").split("\n")
    return "\n".join(f"> {line}" if re.match(STRUCTURE, line) else line for line in lines)
