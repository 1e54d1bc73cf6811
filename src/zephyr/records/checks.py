"""What answers are checked for: the checks of a prompt row, read from its fields and written into them.

A check is an instruction of IFEval with its options, or an exact answer. A row has them as `checks`, or in the columns
of IFEval's own files. What a checker would take for something else is a fault of the row. IFEval: arXiv 2311.07911.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from zephyr.errors import did_you_mean
from zephyr.records.fields import Fields, Json, UnusableError, brief, unusable
from zephyr.records.messages import MessageFault
from zephyr.records.rows import ANSWER, AnswerMatch, Check

# The columns of IFEval's own files.
_IFEVAL = ("instruction_id_list", "kwargs")
_INSTRUCTION_KEYS, _ANSWER_KEYS = ("instruction", "kwargs"), ("answer", "match")
_GSM8K_MARK = "####"
# The options that the checkers search for as regular expressions.
_SEARCHED = ("keywords", "keyword", "forbidden_words", "postscript_marker", "section_spliter")
_LETTER = re.compile("[A-Z]")
_NUMBER = re.compile(r"[$€£]?\s*(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)\s*%?\.?")
_RELATIONS = ("less than", "at least")
# Those that lm-eval can name and its language detection finds.
LANGUAGES = (
    "ar", "bg", "bn", "de", "en", "es", "fa", "fi", "fr", "gu", "he", "hi", "it", "ja", "kn", "ko", "ml", "mr", "ne",
    "pa", "pl", "pt", "ru", "sw", "ta", "te", "th", "uk", "ur", "vi",
)  # fmt: skip


def is_text(value: Json) -> bool:
    """Whether the value is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KINDS: Mapping[str, tuple[str, Callable[[Json], bool]]] = {
    "text": ("a text", is_text),
    "count": ("a whole number from 0", _is_count),
    "letter": ("one letter", lambda value: isinstance(value, str) and len(value) == 1),
    "words": ("a list of texts", lambda value: isinstance(value, list) and bool(value) and all(map(is_text, value))),
    "relation": (" or ".join(f"'{one}'" for one in _RELATIONS), lambda value: value in _RELATIONS),
    "language": (f"one of {', '.join(LANGUAGES)}", lambda value: value in LANGUAGES),
}
# The 25 instructions of IFEval, and their options, all of which they need.
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "keywords:existence": {"keywords": "words"},
    "keywords:frequency": {"keyword": "text", "frequency": "count", "relation": "relation"},
    "keywords:forbidden_words": {"forbidden_words": "words"},
    "keywords:letter_frequency": {"letter": "letter", "let_frequency": "count", "let_relation": "relation"},
    "language:response_language": {"language": "language"},
    "length_constraints:number_sentences": {"num_sentences": "count", "relation": "relation"},
    "length_constraints:number_paragraphs": {"num_paragraphs": "count"},
    "length_constraints:number_words": {"num_words": "count", "relation": "relation"},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": "count",
        "nth_paragraph": "count",
        "first_word": "text",
    },
    "detectable_content:number_placeholders": {"num_placeholders": "count"},
    "detectable_content:postscript": {"postscript_marker": "text"},
    "detectable_format:number_bullet_lists": {"num_bullets": "count"},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": "count"},
    "detectable_format:multiple_sections": {"section_spliter": "text", "num_sections": "count"},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "text"},
    "startend:end_checker": {"end_phrase": "text"},
    "startend:quotation": {},
    "change_case:capital_word_frequency": {"capital_frequency": "count", "capital_relation": "relation"},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "punctuation:no_comma": {},
}


def ifeval_fault(name: Json, options: Json) -> str:
    """What is wrong with an instruction of IFEval or its options; empty if nothing is."""
    if not isinstance(name, str) or name not in FAMILIES:
        return f"has the unknown instruction {brief(name)}{did_you_mean(str(name), FAMILIES)}"
    if not isinstance(options, dict | None):
        return f"the options of {name} must be an object, got {brief(options)}"
    return next(_option_faults(name, _said(options)), "")


def _option_faults(name: str, said: Mapping[str, Json]) -> Iterator[str]:
    """What is wrong with the options: what they do not say, lm-eval draws by chance."""
    known = FAMILIES[name]
    for option in said.keys() - known.keys():
        yield f"{name} has no option '{option}'{did_you_mean(option, known)}"
    for option, kind in known.items():
        words, holds = _KINDS[kind]
        if option not in said:
            yield f"{name} needs the option '{option}', which is not there"
        elif not holds(said[option]):
            yield f"the option '{option}' of {name} must be {words}, got {brief(said[option])}"
        elif option in _SEARCHED:
            yield from _pattern_faults(name, option, said[option])
    nth, count = said.get("nth_paragraph"), said.get("num_paragraphs")
    if isinstance(nth, int) and isinstance(count, int) and not 1 <= nth <= count:
        yield f"the option 'nth_paragraph' of {name} must be a number from 1 to {count}, got {nth}"


def _pattern_faults(name: str, option: str, value: Json) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        try:
            re.compile(str(text))
        except re.error as error:
            words = f"is searched for as a regular expression, which {brief(text)} is not ({error})"
            yield f"the option '{option}' of {name} {words}"


def _said(options: Mapping[str, Json] | None) -> dict[str, Json]:
    """The options that are set: tables hold null for those of other instructions."""
    return {option: value for option, value in (options or {}).items() if value is not None}


def checks_of(fields: Fields) -> tuple[Check, ...]:
    """The checks of a prompt row: those of `checks`, or those in IFEval's own columns; empty without either.

    A text or number in `checks` is an exact answer. Raises UnusableError with all faults.
    """
    value = fields.get("checks") if "checks" in fields else None
    given = [] if value is None else value if isinstance(value, list) else [value]
    if not given and all(name in fields for name in _IFEVAL):
        given = _ifeval_checks(*(fields[name] for name in _IFEVAL))
    checks, faults = [], []
    for number, one in enumerate(given, 1):
        try:
            checks.append(_check(one))
        except UnusableError as error:
            faults += [fault._replace(what=f"check {number}: {fault.what}") for fault in error.faults]
    if faults:
        raise UnusableError(faults)
    return tuple(checks)


def check_fields(check: Check) -> dict[str, Json]:
    """A check as a row has it."""
    if check.instruction == ANSWER:
        return dict(check.options)
    return {"instruction": check.instruction, "kwargs": dict(check.options)}


def _ifeval_checks(names: Json, options: Json) -> list[Json]:
    if not isinstance(names, list) or not isinstance(options, list) or len(names) != len(options):
        what = f"instruction_id_list and kwargs must be two lists of one length, got {brief(names)}, {brief(options)}"
        raise unusable("bad check", what)
    return [{"instruction": name, "kwargs": given} for name, given in zip(names, options, strict=True)]


def _check(value: Json) -> Check:
    fields: Mapping[str, Json] = value if isinstance(value, dict) else {"answer": value}
    faults = list(_faults(fields))
    if faults:
        raise UnusableError([MessageFault("bad check", what) for what in faults])
    if "answer" not in fields:
        options = fields.get("kwargs")
        return Check(str(fields["instruction"]), _said(options if isinstance(options, dict) else None))
    # The answers of GSM8K end in the number, behind a mark.
    answer = str(fields["answer"]).rpartition(_GSM8K_MARK)[2].strip()
    return Check(ANSWER, {"answer": answer, "match": fields.get("match") or match_for(answer)})


def _faults(fields: Fields) -> Iterator[str]:
    is_answer, is_instruction = "answer" in fields, "instruction" in fields
    known = [*(_INSTRUCTION_KEYS if not is_answer else ()), *(_ANSWER_KEYS if not is_instruction else ())]
    for key in fields.keys() - set(known or (*_INSTRUCTION_KEYS, *_ANSWER_KEYS)):
        yield f"has the unknown key '{key}'{did_you_mean(key, known)}"
    if is_answer == is_instruction:
        yield f"needs an instruction or an answer, got {brief(dict(fields))}"
    elif is_instruction:
        fault = ifeval_fault(fields["instruction"], fields.get("kwargs"))
        if fault:
            yield fault
    else:
        yield from _answer_faults(fields["answer"], fields.get("match"))


def _answer_faults(answer: Json, match: Json) -> Iterator[str]:
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    text = str(answer).rpartition(_GSM8K_MARK)[2]
    if not (is_number or isinstance(answer, str)) or not text.strip():
        yield f"the answer must be a text or a number, got {brief(answer)}"
    elif match is not None and match not in get_args(AnswerMatch):
        yield f"match must be one of {', '.join(get_args(AnswerMatch))}, got {brief(match)}"
    elif match == "number" and number_in(text) is None:
        yield f"the answer must be a number where match is number, got {brief(answer)}"
    elif match == "choice" and not _LETTER.fullmatch(text.strip()):
        yield f"the answer must be one capital letter where match is choice, got {brief(answer)}"


def match_for(answer: str) -> AnswerMatch:
    """How an exact answer is compared where its row does not say: by what it looks like."""
    if number_in(answer) is not None:
        return "number"
    return "choice" if _LETTER.fullmatch(answer) else "text"


def number_in(text: str) -> float | None:
    """The number that a text is, with or without a currency, a per cent sign and commas; None if it is none."""
    found = _NUMBER.fullmatch(text.strip())
    return float(found[1].replace(",", "")) if found else None
