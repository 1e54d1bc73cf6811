"""Answers repaired by rules: the checks that an answer fails, met with the fewest changes, as a further candidate.

A small model never writes, say, in lower case by itself, so no sample shows it how. Its own answer in lower case does,
and beside the answer as it was it makes a pair that differs in what was asked for alone. What needs new content, such
as more words or another language, is left to sampling. Kin: constraints added to given answers (arXiv 2410.24175).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise, takewhile

from zephyr.judging.checks import check_answer
from zephyr.records.fields import Json
from zephyr.records.rows import Check

_Options = Mapping[str, Json]

_BLANK_LINE, _LINE_END, _SENTENCE_END = r"\n\s*\n", r"\s*\n\s*", r"(?<=[.!?])\s+"
_LIST_MARK = re.compile(r"^\s*(?:[*•-]|\d+[.)])\s+")
_WORD = re.compile(r"(?<![\w*\[])[A-Za-z]{4,}(?![\w*\]])")
_ALL_CAPITALS = re.compile(r"\b[A-Z]{2,}\b")
_TITLE_WORDS = 6


def repaired(checks: Sequence[Check], text: str) -> str | None:
    """The text changed by rules so that it holds more of its checks, None where no rule can, as in an empty one.

    Raises as `check_answer`.
    """
    if not text.strip():
        return None
    found = text
    for family, rule in REPAIRS.items():
        for check in checks:
            if check.instruction == family and check_answer([check], found).share < 1:
                found = rule(found, check.options).strip() or found
    return found if check_answer(checks, found).share > check_answer(checks, text).share else None


def _sentences(text: str) -> list[str]:
    return [one for one in re.split(_SENTENCE_END, text.strip()) if one]


def _number(options: _Options, name: str) -> int:
    return int(str(options[name]))


def _is_limit(options: _Options, name: str = "relation") -> bool:
    return options[name] == "less than"


# ---- fewer words ----


def _without_words(text: str, options: _Options) -> str:
    """The sentences without forbidden words, searched for as the checker does."""
    forbidden = options["forbidden_words"]
    assert isinstance(forbidden, list)
    pattern = "|".join(rf"\b{word}\b" for word in forbidden)
    return " ".join(one for one in _sentences(text) if not re.search(pattern, one, re.IGNORECASE))


def _less_often(text: str, options: _Options) -> str:
    """The sentences, but those in which the keyword comes up once too often."""
    if not _is_limit(options):
        return text
    kept, left = list[str](), _number(options, "frequency") - 1
    for sentence in _sentences(text):
        times = len(re.findall(str(options["keyword"]), sentence, re.IGNORECASE))
        if times <= left:
            kept.append(sentence)
            left -= times
    return " ".join(kept)


def _fewer_sentences(text: str, options: _Options) -> str:
    return " ".join(_sentences(text)[: _number(options, "num_sentences") - 1]) if _is_limit(options) else text


def _fewer_words(text: str, options: _Options) -> str:
    """The first sentences that are short enough together."""
    if not _is_limit(options):
        return text
    most, sentences = _number(options, "num_words") - 1, _sentences(text)
    lengths = accumulate(len(one.split()) for one in sentences)
    return " ".join(sentences[: sum(1 for _ in takewhile(lambda length: length <= most, lengths))])


# ---- parts of a text ----


def _parts(text: str, count: int) -> list[str]:
    """The text in so many parts, at blank lines, else lines, else ends of sentences; none where it is too short."""
    for pattern, between in ((_BLANK_LINE, "\n\n"), (_LINE_END, "\n"), (_SENTENCE_END, " ")):
        units = [unit.strip() for unit in re.split(pattern, text.strip()) if unit.strip(" *\n")]
        if len(units) >= count:
            ends = [number * len(units) // count for number in range(count + 1)]
            return [between.join(units[first:end]) for first, end in pairwise(ends)]
    return []


def _paragraphs(text: str, options: _Options) -> str:
    return "\n\n***\n\n".join(_parts(text.replace("***", ""), _number(options, "num_paragraphs")))


def _first_word(text: str, options: _Options) -> str:
    """So many paragraphs, of which one begins with the word."""
    paragraphs, nth = _parts(text, _number(options, "num_paragraphs")), _number(options, "nth_paragraph") - 1
    if not paragraphs:
        return text
    one_line = [re.sub(_BLANK_LINE, "\n", paragraph) for paragraph in paragraphs]
    one_line[nth] = f"{str(options['first_word']).capitalize()} {one_line[nth][:1].lower()}{one_line[nth][1:]}"
    return "\n\n".join(one_line)


def _sections(text: str, options: _Options) -> str:
    parts = enumerate(_parts(text, _number(options, "num_sections")), 1)
    return "\n\n".join(f"{options['section_spliter']} {number}\n{part}" for number, part in parts)


def _bullets(text: str, options: _Options) -> str:
    """The first so many points of a list, or else sentences, as bullet points, behind a line that announces them."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    listed = [line for line in lines if _LIST_MARK.match(line)]
    wanted = _number(options, "num_bullets")
    points = listed if len(listed) >= wanted else _sentences(" ".join(lines))
    if len(points) < wanted:
        return text
    begin = [lines[0]] if lines[0].endswith(":") and lines[0] not in points else []
    return "\n".join([*begin, *(f"* {_LIST_MARK.sub('', point).lstrip('*- ')}" for point in points[:wanted])])


# ---- marked words ----


def _marked(text: str, count: int, mark: Callable[[str], str]) -> str:
    """The text with its so many longest words marked, each once, where it comes up first."""
    first = {found[0].lower(): found for found in reversed([*_WORD.finditer(text)])}
    chosen = sorted(first.values(), key=lambda found: (-len(found[0]), found.start()))[:count]
    for found in sorted(chosen, key=lambda found: -found.start()):
        text = text[: found.start()] + mark(found[0]) + text[found.end() :]
    return text


def _capital_words(text: str, options: _Options) -> str:
    if _is_limit(options, "capital_relation"):
        return _ALL_CAPITALS.sub(lambda found: found[0].capitalize(), text)
    return _marked(text, _number(options, "capital_frequency"), str.upper)


# ---- what stands around a text ----


def _postscript(text: str, options: _Options) -> str:
    """The last sentence behind the marker."""
    *body, last = _sentences(text)
    return f"{' '.join(body) or last}\n\n{options['postscript_marker']} {last}"


def _titled(text: str, _options: _Options) -> str:
    words = re.findall(r"[\w'-]+", _sentences(text)[0])[:_TITLE_WORDS]
    return f"<<{' '.join(words).title()}>>\n\n{text}"


def _decided(text: str, _options: _Options) -> str:
    said = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return f"My answer is {said[1].lower() if said else 'maybe'}."


# The rules, in the order in which they are applied: shorten a text, divide it, mark its words, put something around it.
REPAIRS: Mapping[str, Callable[[str, _Options], str]] = {
    "detectable_format:constrained_response": _decided,
    "keywords:forbidden_words": _without_words,
    "keywords:frequency": _less_often,
    "length_constraints:number_sentences": _fewer_sentences,
    "length_constraints:number_words": _fewer_words,
    "detectable_format:number_bullet_lists": _bullets,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_highlighted_sections": lambda text, options: _marked(
        text, _number(options, "num_highlights"), "*{}*".format
    ),
    "detectable_content:number_placeholders": lambda text, options: _marked(
        text, _number(options, "num_placeholders"), "[{}]".format
    ),
    "change_case:capital_word_frequency": _capital_words,
    "detectable_content:postscript": _postscript,
    "punctuation:no_comma": lambda text, _: text.replace(",", ""),
    "detectable_format:title": _titled,
    "startend:end_checker": lambda text, options: f"{text}\n\n{options['end_phrase']}",
    "change_case:english_lowercase": lambda text, _: text.lower(),
    "change_case:english_capital": lambda text, _: text.upper(),
    "startend:quotation": lambda text, _: f'"{text}"',
    "detectable_format:json_format": lambda text, _: json.dumps({"answer": text}, indent=2, ensure_ascii=False),
    "combination:repeat_prompt": lambda text, options: f"{options['prompt_to_repeat']}\n\n{text}",
}
