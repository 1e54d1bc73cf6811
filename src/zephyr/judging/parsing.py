"""How a judge's reply is read: ratings by aspect, verdicts of comparisons, and the published judges' marks.

Our own wording is read strictly: a reply counts only if it can be read in one way, and what it does not hold is never a
score. A heading for every text, once and in order; the fields of its aspect, once and in order; one number; a verdict
only as the last line and the only one of its form. Blank lines mean nothing, and lines that begin with ">" are quotes.
A reply that repeats a heading or a field, because the judge quoted a text that tried to forge one, is a failure: asking
again is left to the caller, as is refusing replies that were cut off.

The published readings (FastChat, AlpacaEval) are kept as they are, so that published numbers can be compared with. They
take the first mark in a reply, whoever put it there.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from zephyr.judging.questions import OVERALL, Scale, scale_of

FailureReason = Literal["cut off", "headings", "fields", "rating", "range", "verdict"]
Winner = Literal["first", "second", "tie"]

# Runs of blanks that stand side by side are bounded, so that no reply takes long to read.
_HEADING = (
    r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8}\**|\*\*)[ \t]{0,8}"  # a heading, or a bold line
    r"(?:Output[ \t]+for[ \t]+)?Text[ \t]+<?([0-9]{1,4})>?[ \t*:]*$"
)
_FIELD = r"[ \t]*(?:[-*][ \t]+)?[*_]{0,2}(Type|Rating|Rationale(?:[ \t]+For[ \t]+Rating)?)[*_]{0,2}[ \t]*:[*_]{0,2}"
_OVERALL = r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8})?[*_]{0,2}Overall[ \t]+Score[*_]{0,2}[ \t]*:[*_]{0,2}"
# A line that begins so is part of the reply's structure.
_STRUCTURE = re.compile(f"(?i:{_HEADING}|{_FIELD}|{_OVERALL})")

_HEADINGS = re.compile(f"^{_HEADING}", re.IGNORECASE | re.MULTILINE)
_FIELDS = re.compile(f"^{_FIELD}", re.IGNORECASE | re.MULTILINE)
_OVERALLS = re.compile(f"^{_OVERALL}(.*)$", re.IGNORECASE | re.MULTILINE)
# Without headings, a block begins with its first field after a blank line.
_BLOCK_STARTS = re.compile(r"(?:\A|\n[ \t]*\n)(?=[ \t]*(?:Type|Rating)[ \t]*:)", re.IGNORECASE)

_MARKUP = r"[\s*_\[\]()\"'<>]*"
_NUMBER = re.compile(
    rf"{_MARKUP}(-?[0-9]{{1,6}}(?:\.[0-9]{{1,6}})?){_MARKUP}"
    rf"(?:(?:/|out of){_MARKUP}([0-9]{{1,6}}))?(?![\w%])"  # what it is out of
)
_NOT_APPLICABLE = re.compile(rf"{_MARKUP}N/A\b\D*", re.IGNORECASE)

_PLAIN_FIELDS = ("rating", "rationale")
_TYPED_FIELDS = ("type", "rationale", "rating", "rationale")

# A comparison's verdict.
_WINNERS: Mapping[str, Winner] = {"a": "first", "b": "second", "tie": "tie"}
_VERDICT_LINE = re.compile(r"^[ \t]{0,8}[*_]{0,2}Verdict[*_]{0,2}[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_VERDICT_MARKUP = " \t\r\n*_`[]()\"'."

# The marks of the published judges.
_PUBLISHED_SCORE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_PUBLISHED_SCORE_IN_ONE_BRACKET = re.compile(r"\[(\d+\.?\d*)\]")
_PUBLISHED_MARKS: Mapping[str, Winner] = {"[[A]]": "first", "[[B]]": "second", "[[C]]": "tie"}
_MAX_RANKS_CHARACTERS = 10_000


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


class _Field(NamedTuple):
    name: str
    text: str


def parse_reply(aspect: str, reply: str, num_answers: int) -> tuple[Rating, ...] | ParseFailure:
    """The ratings of all `num_answers` texts in order, or why there are none; no reply raises an error.

    Raises ValueError for an unknown aspect, or an overall score of more than one text.
    """
    scale = scale_of(aspect)
    reply = reply.replace("\r\n", "\n")
    if aspect == OVERALL:
        if num_answers != 1:
            raise ValueError(f"'{OVERALL}' rates one text a reply, got num_answers={num_answers}")
        return _critique(reply, scale)
    sections = _sections(reply, num_answers)
    if isinstance(sections, ParseFailure):
        return sections
    ratings: list[Rating] = []
    for number, section in enumerate(sections, start=1):
        rating = _section_rating(section, scale, f"text {number}")
        if isinstance(rating, ParseFailure):
            return rating
        ratings.append(rating)
    return tuple(ratings)


def _critique(reply: str, scale: Scale) -> tuple[Rating, ...] | ParseFailure:
    verdicts = list(_OVERALLS.finditer(reply))
    if len(verdicts) != 1:
        return ParseFailure("verdict", f"{len(verdicts)} lines begin with 'Overall Score:', not 1")
    (verdict,) = verdicts
    if reply[verdict.end() :].strip(" \t\n\r*_`"):
        return ParseFailure("verdict", "text follows the line of the overall score")
    score = _score(verdict[1], scale, "overall score")
    return score if isinstance(score, ParseFailure) else (Rating(score, reply[: verdict.start()].strip()),)


def _sections(reply: str, num_answers: int) -> list[str] | ParseFailure:
    headings = list(_HEADINGS.finditer(reply))
    if not headings:
        blocks = _BLOCK_STARTS.split(reply)
        if len(blocks) - 1 != num_answers:
            return ParseFailure("headings", f"no headings, and {len(blocks) - 1} blocks for {num_answers} texts")
        return blocks[1:]
    numbers = [int(heading[1]) for heading in headings]
    if numbers != list(range(1, num_answers + 1)):
        return ParseFailure("headings", f"headings of texts {numbers[:12]} for {num_answers} texts")
    return _texts_after(headings, reply)


def _texts_after(marks: Sequence[re.Match[str]], text: str) -> list[str]:
    """The text after each mark, up to the next one."""
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.end() : end] for mark, end in zip(marks, ends, strict=False)]


def _section_rating(section: str, scale: Scale, where: str) -> Rating | ParseFailure:
    found = list(_FIELDS.finditer(section))
    fields = [
        _Field(mark[1].lower().split()[0], text.strip())
        for mark, text in zip(found, _texts_after(found, section), strict=True)
    ]
    names = tuple(field.name for field in fields)
    if names != _PLAIN_FIELDS and not (scale.typed and names == _TYPED_FIELDS):
        return ParseFailure("fields", f"{where} has the fields {', '.join(names[:8]) or 'none'}")
    verdict, rationale = fields[-2:]
    is_not_applicable = scale.optional and _NOT_APPLICABLE.fullmatch(verdict.text)
    score = None if is_not_applicable else _score(verdict.text, scale, where)
    if isinstance(score, ParseFailure):
        return score
    if names == _PLAIN_FIELDS:
        return Rating(score, rationale.text)
    types = tuple(int(digits) for digits in re.findall(r"[0-9]{1,4}", fields[0].text))
    return Rating(score, rationale.text, types, fields[1].text)


def _score(text: str, scale: Scale, where: str) -> float | ParseFailure:
    """The one number of `text`, with or without the scale's end as its denominator."""
    found = _NUMBER.match(text)
    if found is None or re.search(r"\d", text[found.end() :]):
        return ParseFailure("rating", f"{where} has no single number but {text[:40]!r}")
    if found[2] is not None and float(found[2]) != scale.high:
        return ParseFailure("range", f"{where} is out of {found[2]}, not out of {scale.high:g}")
    score = float(found[1])
    if not scale.low <= score <= scale.high:
        return ParseFailure("range", f"{where} is {score:g}, not within {scale.low:g} to {scale.high:g}")
    return score


def write_reply(aspect: str, ratings: Sequence[Rating]) -> str:
    """The reply that `parse_reply` reads as these ratings; for rule-based judges, structured replies and tests.

    Lines of a rationale that could be taken for structure are quoted with "> "; outer blanks are stripped.
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
    return "\n".join(f"> {line}" if re.match(_STRUCTURE, line) else line for line in lines)


def read_verdict(reply: str) -> Winner | None:
    """The winner by the reply's last line; None if it holds no verdict, or another verdict comes before it."""
    verdicts = list(_VERDICT_LINE.finditer(reply))
    if len(verdicts) != 1 or reply[verdicts[0].end() :].strip(_VERDICT_MARKUP):
        return None
    return _WINNERS.get(verdicts[0][1].strip(_VERDICT_MARKUP).lower())


def write_verdict(winner: Winner, reason: str) -> str:
    """The reply that `read_verdict` reads as this winner; for rule-based judges."""
    word = {"first": "A", "second": "B", "tie": "tie"}[winner]
    quoted = "\n".join(f"> {line}" if _VERDICT_LINE.match(line) else line for line in reason.split("\n"))
    return f"{quoted}\n\nVerdict: {word}"


def published_score(reply: str) -> float | None:
    """The first number in double brackets, else the first in single ones, else None; never held to a scale.

    Source: FastChat, fastchat/llm_judge/common.py (which writes -1 for None).
    """
    found = _PUBLISHED_SCORE.search(reply) or _PUBLISHED_SCORE_IN_ONE_BRACKET.search(reply)
    return None if found is None else float(found[1])


def published_winner(reply: str) -> Winner | None:
    """The winner by the first of [[A]], [[B]] and [[C]], in this order, that occurs anywhere in the reply.

    Source: FastChat, fastchat/llm_judge/common.py.
    """
    return next((winner for mark, winner in _PUBLISHED_MARKS.items() if mark in reply), None)


def ranked_preference(reply: str) -> float | None:
    """1.0 if the list of ranks puts the first output first, 2.0 if second, None if the reply is no such list.

    Source: AlpacaEval, alpaca_eval/completion_parsers.py, ranking_parser.
    """
    if len(reply) > _MAX_RANKS_CHARACTERS:
        return None
    try:
        ranks: object = ast.literal_eval(reply.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    for entry in ranks if isinstance(ranks, list | tuple) else ():
        if isinstance(entry, dict) and entry.get("model") == "model_1":
            rank = entry.get("rank")
            return float(rank) if isinstance(rank, int) and rank in (1, 2) else None
    return None


def token_preference(logprobs: Mapping[str, float]) -> float | None:
    """The preference from 1 (first output, "m") to 2 (second, "M") by the log-probs of the reply's one token.

    A missing token has probability 0; None if both are missing. Source: AlpacaEval, logprob_parser.
    """
    first, second = (math.exp(logprobs[name]) if name in logprobs else 0.0 for name in ("m", "M"))
    return 2 - first / (first + second) if first + second > 0 else None
