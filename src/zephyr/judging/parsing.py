"""What a judge's reply says: ratings, or a failure; never a score that the reply does not hold.

A reply counts only if it can be read in one way: a heading for every text, once and in order; the fields of
its aspect, once and in order; one number. Blank lines mean nothing, and lines that begin with ">" are quotes.
A reply that repeats a heading or a field, because the judge quoted a text that tried to forge one, is a failure:
asking again is left to the caller, as is refusing replies that were cut off.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from zephyr.judging.aspects import OVERALL, ParseFailure, Rating, Scale, scale_of

# Runs of blanks that stand side by side are bounded, so that no reply takes long to read.
_HEADING = (
    r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8}\**|\*\*)[ \t]{0,8}"  # a heading, or a bold line
    r"(?:Output[ \t]+for[ \t]+)?Text[ \t]+<?([0-9]{1,4})>?[ \t*:]*$"
)
_FIELD = r"[ \t]*(?:[-*][ \t]+)?[*_]{0,2}(Type|Rating|Rationale(?:[ \t]+For[ \t]+Rating)?)[*_]{0,2}[ \t]*:[*_]{0,2}"
_VERDICT = r"[ \t]{0,8}(?:#{1,6}[ \t]{0,8})?[*_]{0,2}Overall[ \t]+Score[*_]{0,2}[ \t]*:[*_]{0,2}"
# A line that begins so is part of the reply's structure.
STRUCTURE = re.compile(f"(?i:{_HEADING}|{_FIELD}|{_VERDICT})")

_HEADINGS = re.compile(f"^{_HEADING}", re.IGNORECASE | re.MULTILINE)
_FIELDS = re.compile(f"^{_FIELD}", re.IGNORECASE | re.MULTILINE)
_VERDICTS = re.compile(f"^{_VERDICT}(.*)$", re.IGNORECASE | re.MULTILINE)
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


class _Field(NamedTuple):
    name: str
    text: str


def parse_reply(aspect: str, reply: str, num_answers: int) -> tuple[Rating, ...] | ParseFailure:
    """The ratings of all `num_answers` texts in order, or why there are none; no reply raises an error."""
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
    verdicts = list(_VERDICTS.finditer(reply))
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
    """What stands behind each mark, up to the next one."""
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
