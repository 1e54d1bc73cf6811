"""What a row of a task must have before a model is asked about it: a gold label that is one, and IFEval's options.

lm-eval scores what it is given: a label of -1 is the last choice, an empty letter the first, a missing option a number
drawn by chance. A local row like that is a DataError that names file, row and value. IFEval: arXiv 2311.07911.
"""

from collections.abc import Callable, Collection, Mapping

from zephyr.errors import DataError, did_you_mean
from zephyr.records.fields import Json, brief

_RELATIONS = ("less than", "at least")
# Those that lm-eval can name and its language detection finds.
_LANGUAGES = (
    "ar", "bg", "bn", "de", "en", "es", "fa", "fi", "fr", "gu", "he", "hi", "it", "ja", "kn", "ko", "ml", "mr", "ne",
    "pa", "pl", "pt", "ru", "sw", "ta", "te", "th", "uk", "ur", "vi",
)  # fmt: skip


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KINDS: Mapping[str, tuple[str, Callable[[Json], bool]]] = {
    "text": ("a text", _is_text),
    "count": ("a whole number from 0", _is_count),
    "letter": ("one letter", lambda value: isinstance(value, str) and len(value) == 1),
    "words": ("a list of texts", lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value))),
    "relation": (" or ".join(f"'{one}'" for one in _RELATIONS), lambda value: value in _RELATIONS),
    "language": (f"one of {', '.join(_LANGUAGES)}", lambda value: value in _LANGUAGES),
}
# The options of every instruction, all of which it needs.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
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


def choice_texts(value: Json, where: str) -> list[str]:
    """The choices of a row. Raises DataError unless they are two or more texts."""
    if not isinstance(value, list) or len(value) < 2 or not all(map(_is_text, value)):
        raise _fault(where, f"choices must be two or more texts, got {brief(value)}")
    return [str(one) for one in value]


def gold_index(value: Json, num_choices: int, where: str) -> int:
    """The index of the right choice, given as a number or its digits. Raises DataError for one that is none."""
    text = str(value)
    is_number = not isinstance(value, bool) and text.isascii() and text.isdigit()
    if not is_number or int(text) >= num_choices:
        raise _fault(where, f"its label must be a number from 0 to {num_choices - 1}, got {brief(value)}")
    return int(text)


def gold_letter(value: str, where: str) -> int:
    """The index of a letter of A to D. Raises DataError for any other text."""
    letter = value.strip()
    if letter not in tuple("ABCD"):
        raise _fault(where, f"its answer must be one of A, B, C and D, got {brief(value)}")
    return "ABCD".index(letter)


def check_winogrande(fields: Mapping[str, Json], where: str) -> None:
    """Check a row of Winogrande. Raises DataError."""
    if fields.get("answer") not in ("1", "2"):
        raise _fault(where, f"its answer must be '1' or '2', got {brief(fields.get('answer'))}")
    require_texts(fields, ("sentence", "option1", "option2"), where)
    if "_" not in str(fields["sentence"]):
        raise _fault(where, f"its sentence has no gap '_', got {brief(fields['sentence'])}")


def require_texts(fields: Mapping[str, Json], names: Collection[str], where: str) -> None:
    """Check that these fields are texts with something in them. Raises DataError."""
    for name in names:
        if not _is_text(fields.get(name)):
            raise _fault(where, f"its {name} must be a text, got {brief(fields.get(name))}")


def check_gsm8k(fields: Mapping[str, Json], where: str) -> None:
    """Check a row of GSM8K, whose answer ends in its number. Raises DataError."""
    require_texts(fields, ("question", "answer"), where)
    if not str(fields["answer"]).rpartition("#### ")[1]:
        raise _fault(where, f"its answer must end in '#### ' and the number, got {brief(fields['answer'])}")


def check_truthfulqa(fields: Mapping[str, Json], where: str) -> None:
    """Check a row of TruthfulQA, which needs right and wrong answers. Raises DataError."""
    require_texts(fields, ("Question", "Best Answer", "Incorrect Answers"), where)


def check_drop(fields: Mapping[str, Json], where: str) -> None:
    """Check a row of DROP, whose right answers are parted by '|'. Raises DataError."""
    require_texts(fields, ("context", "ref_text"), where)
    if not all(part.strip() for part in str(fields["ref_text"]).split("|")):
        raise _fault(where, f"its ref_text must be answers parted by '|', got {brief(fields['ref_text'])}")


def check_ifeval(fields: Mapping[str, Json], where: str) -> None:
    """Check a row of IFEval: its prompt, its instructions, and the options of each. Raises DataError."""
    require_texts(fields, ("prompt",), where)
    names, options = fields.get("instruction_id_list"), fields.get("kwargs")
    if not isinstance(names, list) or not names:
        raise _fault(where, f"its instruction_id_list must be a list of instructions, got {brief(names)}")
    if not isinstance(options, list) or len(options) != len(names):
        got = f"{len(options)}" if isinstance(options, list) else brief(options)
        raise _fault(where, f"its kwargs must be a list of {len(names)}, one for each instruction, got {got}")
    for name, given in zip(names, options, strict=True):
        _check_instruction(name, given, where)


def _check_instruction(name: Json, given: Json, where: str) -> None:
    if not isinstance(name, str) or name not in _OPTIONS:
        raise _fault(where, f"has the unknown instruction {brief(name)}{did_you_mean(str(name), _OPTIONS)}")
    if not isinstance(given, dict | None):
        raise _fault(where, f"the options of {name} must be an object, got {brief(given)}")
    known = _OPTIONS[name]
    said = {option: value for option, value in (given or {}).items() if value is not None}
    for option in said.keys() - known.keys():
        raise _fault(where, f"{name} has no option '{option}'{did_you_mean(option, known)}")
    for option, kind in known.items():
        words, holds = _KINDS[kind]
        if option not in said:
            raise _fault(where, f"{name} needs the option '{option}', which is not there")
        if not holds(said[option]):
            raise _fault(where, f"the option '{option}' of {name} must be {words}, got {brief(said[option])}")
    _check_paragraph(name, said, where)


def _check_paragraph(name: str, options: Mapping[str, Json], where: str) -> None:
    """Check that the paragraph that is asked for is one of those asked for; lm-eval draws another one otherwise."""
    nth, count = options.get("nth_paragraph"), options.get("num_paragraphs")
    if isinstance(nth, int) and isinstance(count, int) and not 1 <= nth <= count:
        raise _fault(where, f"the option 'nth_paragraph' of {name} must be a number from 1 to {count}, got {nth}")


def _fault(where: str, what: str) -> DataError:
    return DataError(where, what, "correct the row, or fetch the file again")
