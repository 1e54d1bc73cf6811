"""What a row of a task must have before a model is asked about it: a gold label that is one, and IFEval's options.

lm-eval scores what it is given: a label of -1 is the last choice, an empty letter the first, a missing option a number
drawn by chance. A local row like that is a DataError that names file, row and value. IFEval: arXiv 2311.07911.
"""

from collections.abc import Collection, Mapping

from zephyr.errors import DataError
from zephyr.records.checks import ifeval_fault, is_text
from zephyr.records.fields import Json, brief


def choice_texts(value: Json, where: str) -> list[str]:
    """The choices of a row. Raises DataError unless they are two or more texts."""
    if not isinstance(value, list) or len(value) < 2 or not all(map(is_text, value)):
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
        if not is_text(fields.get(name)):
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
        fault = ifeval_fault(name, given)
        if fault:
            raise _fault(where, fault)


def _fault(where: str, what: str) -> DataError:
    return DataError(where, what, "correct the row, or fetch the file again")
