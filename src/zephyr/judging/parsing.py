"""How a judge's ratings are read from its reply; verdicts of comparisons and published judges' marks: `verdicts`.

Replies are read strictly: one counts only if it can be read in one way, and what it does not hold is never a score.
A heading for every text, once and in order; the fields of its aspect, once and in order; one number, and nothing behind
it; a verdict only as the last line and the only one of its form. Blank lines mean nothing, and lines that begin with
">" are quotes. A reply that repeats a heading or a field, because the judge quoted a text that tried to forge one, is a
failure: asking again is left to the caller, as is refusing replies that were cut off. Where a text holds lines of these
forms, so that an echo of it could pass for a reply, only lines with the question's fence word count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from zephyr.judging.questions import FIELD, HEADING, OVERALL, OVERALL_LINE, Scale, scale_of

FailureReason = Literal["cut off", "headings", "fields", "rating", "range", "verdict", "schema"]

# A line that begins so is part of the reply's structure.
_STRUCTURE = re.compile(f"(?i:{HEADING}|{FIELD}|{OVERALL_LINE})")
_WORDED = re.compile(f"(?i:{HEADING}|{OVERALL_LINE})")

_HEADINGS = re.compile(f"^{HEADING}", re.IGNORECASE | re.MULTILINE)
_FIELDS = re.compile(f"^{FIELD}", re.IGNORECASE | re.MULTILINE)
_OVERALLS = re.compile(f"^{OVERALL_LINE}(.*)$", re.IGNORECASE | re.MULTILINE)
# Without headings, a block begins with its first field after a blank line.
_BLOCK_STARTS = re.compile(r"(?:\A|\n[ \t]*\n)(?=[ \t]*(?:Type|Rating)[ \t]*:)", re.IGNORECASE)

_MARKUP = r"[\s*_\[\]()\"'<>]*"
_NUMBER = re.compile(
    rf"{_MARKUP}(-?[0-9]{{1,6}}(?:\.[0-9]{{1,6}})?){_MARKUP}"
    rf"(?:(?:/|out of){_MARKUP}([0-9]{{1,6}}))?[\s*_\[\]()\"'<>.]*"  # what it is out of, and no word behind it
)
_JSON_START = re.compile(r"\s*(?:```\w*\s*)?\{")
_NOT_APPLICABLE = re.compile(rf"{_MARKUP}N/A\b\D*", re.IGNORECASE)

_PLAIN_FIELDS = ("rating", "rationale")
_TYPED_FIELDS = ("type", "rationale", "rating", "rationale")


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


def parse_reply(
    aspect: str, reply: str, num_answers: int, *, word: str = "", scale: Scale | None = None
) -> tuple[Rating, ...] | ParseFailure:
    """The ratings of all `num_answers` texts in order, or why there are none; no reply raises an error.

    `word`: what lines must carry to count, see `required_word`. `scale`: of an aspect of a user's own. Raises
    ValueError for an unknown aspect without one, or an overall score of more than one text.
    """
    scale = scale or scale_of(aspect)
    reply = reply.replace("\r\n", "\n")
    if word:
        reply = lines_with_word(reply, word, _WORDED)
    found = _parsed(aspect, reply, num_answers, scale, needs_headings=bool(word))
    if isinstance(found, ParseFailure) and _JSON_START.match(reply):
        return ParseFailure("schema", f"it is no JSON of the schema, nor in plain form ({found.detail})")
    return found


def lines_with_word(reply: str, word: str, marks: re.Pattern[str]) -> str:
    """The reply with lines of these forms quoted where they lack the word, and without the word where they have it."""
    around = re.compile(rf"[\[(<*]*{word}[\])>:*]*[ \t]*", re.IGNORECASE)
    lines = []
    for line in reply.split("\n"):
        bare = around.sub("", line)
        lines.append(bare if bare != line else f"> {line}" if marks.match(line) else line)
    return "\n".join(lines)


def _parsed(
    aspect: str, reply: str, num_answers: int, scale: Scale, *, needs_headings: bool
) -> tuple[Rating, ...] | ParseFailure:
    if aspect == OVERALL:
        if num_answers != 1:
            raise ValueError(f"'{OVERALL}' rates one text a reply, got num_answers={num_answers}")
        return _critique(reply, scale)
    sections = _sections(reply, num_answers, needs_headings=needs_headings)
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


def _sections(reply: str, num_answers: int, *, needs_headings: bool) -> list[str] | ParseFailure:
    headings = list(_HEADINGS.finditer(reply))
    if not headings and needs_headings:
        return ParseFailure("headings", "no heading with the fence word, where a text holds lines of a reply's form")
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
    found = _NUMBER.fullmatch(text)
    if found is None:
        return ParseFailure("rating", f"{where} has no single number but {text[:40]!r}")
    if found[2] is not None and float(found[2]) != scale.high:
        return ParseFailure("range", f"{where} is out of {found[2]}, not out of {scale.high:g}")
    score = float(found[1])
    if not scale.low <= score <= scale.high:
        return ParseFailure("range", f"{where} is {score:g}, not within {scale.low:g} to {scale.high:g}")
    return score


def write_reply(aspect: str, ratings: Sequence[Rating], *, word: str = "", scale: Scale | None = None) -> str:
    """The reply that `parse_reply` reads as these ratings; for rule-based judges, structured replies and tests.

    Lines of a rationale that could be taken for structure are quoted with "> "; outer blanks are stripped.
    """
    mark = f"{word} " if word else ""
    scale = scale or scale_of(aspect)
    if aspect == OVERALL:
        (rating,) = ratings
        return f"{_quoted(rating.rationale)}\n\n{mark}Overall Score: {_number(rating)}".lstrip()
    blocks = []
    for number, rating in enumerate(ratings, start=1):
        types = ", ".join(str(kind) for kind in rating.types) or "None"
        typed = f"Type: {types}\nRationale: {_quoted(rating.type_rationale)}\n" if scale.typed else ""
        verdict = f"Rating: {_number(rating)}\nRationale: {_quoted(rating.rationale)}"
        blocks.append(f"#### {mark}Output for Text {number}\n{typed}{verdict}")
    return "\n\n".join(blocks)


def _number(rating: Rating) -> str:
    return "N/A" if rating.score is None else f"{rating.score:g}"


def _quoted(rationale: str) -> str:
    lines = rationale.strip().replace("\r\n", "\n").split("\n")
    return "\n".join(f"> {line}" if re.match(_STRUCTURE, line) else line for line in lines)
