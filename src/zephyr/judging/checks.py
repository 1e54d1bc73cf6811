"""Answers checked instead of rated: which checks of a prompt an answer holds, and why it is rated so. Asks no model.

Instructions are checked by lm-eval's checkers of IFEval (extra eval), exact answers here. Thinking is no part of an
answer. Equal answers always get equal verdicts: language detection is seeded. IFEval: arXiv 2311.07911.
"""

import importlib
import json
import logging
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol, cast

from zephyr.errors import DataError
from zephyr.judging.parsing import Rating
from zephyr.recipe.feedback_section import ChecksSection
from zephyr.records.checks import number_in
from zephyr.records.fields import Json, brief
from zephyr.records.rows import ANSWER, Check

DEVIATION = (
    "sentences are split by a list of abbreviations, as nltk's punkt_tab is not here "
    "(python -m nltk.downloader punkt_tab)"
)
# Fewer 4-grams say nothing of a loop.
LEAST_RUNS = 12
_OWN_DATA = Path(__file__).parent / "nltk_data"
_LETTER_FREQUENCY = "keywords:letter_frequency"
# Where an answer says what it comes to: GSM8K's mark, TeX's box, and plain words.
_MARKED = re.compile(r"####\s*([^\n]+)|\\boxed\{([^{}]+)\}")
_STATED = re.compile(r"(?i:\b(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*)([^\n]+)")
_NUMBERS = re.compile(r"(?<![\w.])-?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")
_LEADING_LETTER = re.compile(r"^\W*([A-Z])(?=\W*$|[).:\]*])", re.MULTILINE)
_LETTER_ALONE = re.compile(r"\W*([A-Z])\W*")
_STATED_LETTER = re.compile(r"\W*([A-Z])(?![A-Za-z'])")


class CheckedAnswer(NamedTuple):
    """The share of its prompt's checks that an answer holds, and a line for each check on whether it does."""

    share: float
    reasons: tuple[str, ...]


def checked_ratings(checks: Sequence[Check], texts: Sequence[str], section: ChecksSection) -> list[Rating]:
    """The rating of every text, from 0 to 1 as the section gives credit; the rationale says what holds and what fails.

    Raises ValueError without checks, DataError if the packages of the checkers are not installed.
    """
    return [_rating(check_answer(checks, text, is_loose=section.loose), text, section) for text in texts]


def _rating(found: CheckedAnswer, text: str, section: ChecksSection) -> Rating:
    repeated = repetition(text)
    if section.max_repetition is not None and repeated > section.max_repetition:
        return Rating(0.0, "\n".join([f"fails: {repeated:.0%} of its 4-grams are repeated", *found.reasons]))
    return Rating(found.share if section.credit == "share" else float(found.share == 1), "\n".join(found.reasons))


def repetition(text: str) -> float:
    """The share of a text's word 4-grams that have stood in it before, from 0 to 1; 0 for less than a few of them.

    seq-rep-4 of arXiv 1908.04319.
    """
    words = text.casefold().split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(runs)) / len(runs) if len(runs) >= LEAST_RUNS else 0.0


def check_answer(checks: Sequence[Check], text: str, *, is_loose: bool = False) -> CheckedAnswer:
    """Which checks the text holds; loosely, also if it does without its first or last line, or without asterisks.

    An empty text holds none, as in IFEval. Raises as `checked_ratings`.
    """
    if not checks:
        raise ValueError("an answer without checks cannot be checked")
    variants = [one for one in (_variants(text) if is_loose else [text]) if one.strip()]
    held = [any(map(_checker(check), variants)) for check in checks]
    reasons = (f"{'holds' if holds else 'fails'}: {_named(one)}" for one, holds in zip(checks, held, strict=True))
    return CheckedAnswer(sum(held) / len(held), tuple(reasons))


def _variants(text: str) -> Iterator[str]:
    """The text as it is, and what IFEval's loose accuracy also looks at."""
    lines = text.split("\n")
    for part in (text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))):
        yield part
        yield part.replace("*", "")


def _named(check: Check) -> str:
    options = ", ".join(f"{name} {_plain(value)}" for name, value in check.options.items())
    return f"{check.instruction} ({options})" if options else check.instruction


def _plain(value: Json) -> str:
    return brief(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- instructions ----


class _Instruction(Protocol):
    """What is used here of lm-eval's checkers."""

    def build_description(self, **options: Json) -> str: ...

    def check_following(self, value: str) -> bool: ...


def _checker(check: Check) -> Callable[[str], bool]:
    """Whether a text holds the check."""
    if check.instruction == ANSWER:
        answer, match = str(check.options["answer"]), str(check.options["match"])
        return lambda text: ANSWER_MATCHES[match](text, answer)
    letter = str(check.options.get("letter", "a")).lower()
    if check.instruction == _LETTER_FREQUENCY and not ("a" <= letter <= "z"):
        return lambda text: _has_letters(text.lower().count(letter), check.options)
    instruction = _instructions()[check.instruction](check.instruction)
    instruction.build_description(**check.options)
    return lambda text: _follows(instruction, text)


def _follows(instruction: _Instruction, text: str) -> bool:
    try:
        return bool(instruction.check_following(text))
    except RecursionError:  # of lm-eval's JSON checker: nested more deeply than can be read
        return False


def _has_letters(count: int, options: Mapping[str, Json]) -> bool:
    """As lm-eval's checker, which draws another letter by chance where it is none from a to z."""
    least = int(str(options["let_frequency"]))
    return count >= least if options["let_relation"] == "at least" else count < least


@cache
def _instructions() -> Mapping[str, Callable[[str], _Instruction]]:
    provide_sentence_splitter(offline=True)
    registry = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")
    return cast("Mapping[str, Callable[[str], _Instruction]]", registry.INSTRUCTION_DICT)


@cache
def require_checkers() -> None:
    """Check that the packages of IFEval's checkers are installed, without importing them. Raises DataError."""
    missing = [name for name in ("lm_eval", "nltk", "immutabledict", "langdetect") if find_spec(name) is None]
    if missing:
        what = f"checks of instructions need the packages {', '.join(missing)}"
        raise DataError("judge checks", what, "pip install 'zephyr-align[eval]'")


# lm-eval's checkers fetch nltk's `punkt_tab` from the network when they are imported. Without network they would count
# no sentence at all; a Punkt model without training data then takes its place, which knows the abbreviations in
# `nltk_data`, and that is a deviation beside the score.


class _NltkData(Protocol):
    path: list[str]

    def find(self, name: str) -> object: ...


class _Nltk(Protocol):
    data: _NltkData

    def download(self, name: str, *, quiet: bool) -> bool: ...


def provide_sentence_splitter(*, offline: bool) -> tuple[str, ...]:
    """Deviations of the sentence counts, once nltk has its data for splitting English; downloads it unless `offline`.

    Raises DataError if a package of the checkers is not installed.
    """
    try:
        nltk = cast("_Nltk", importlib.import_module("nltk"))
        importlib.import_module("immutabledict")
        # It guesses languages at random unless seeded; seeded, an answer always gets the same verdict.
        importlib.import_module("langdetect").DetectorFactory.seed = 0
        # Where it finds no language, as in "1/2", the checker takes the constraint as held, and logs an error.
        logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)
    except ImportError as error:
        what = f"its checkers need the package {error.name}"
        raise DataError("ifeval", what, "pip install 'zephyr-align[eval]'") from error
    if not offline and not _is_there(nltk):
        nltk.download("punkt_tab", quiet=True)
    if not _is_there(nltk):
        nltk.data.path.append(_own_data().name)
    return (DEVIATION,) if _own_data.cache_info().currsize else ()


@cache
def _own_data() -> TemporaryDirectory[str]:
    """A private copy of `nltk_data`, until the process ends.

    nltk 3.10 reads no folder that others may write to, as a clone is where the umask is 002.
    """
    folder = TemporaryDirectory(prefix="zephyr-nltk-")
    shutil.copytree(_OWN_DATA, folder.name, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for copied in (Path(folder.name), *Path(folder.name).rglob("*")):
        copied.chmod(0o700 if copied.is_dir() else 0o600)
    return folder


def _is_there(nltk: _Nltk) -> bool:
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


# ---- exact answers ----


def _marked(text: str) -> list[str]:
    """What the text marks as its answer, the last such mark first; headings of a text are marked alike."""
    return [part.strip() for found in _MARKED.findall(text)[::-1] for part in found if part]


def _says_number(text: str, answer: str) -> bool:
    """Whether the number that a text marks as its answer, or else its last one, is this one: as GSM8K is scored."""
    found = [one for one in _marked(text) if number_in(one) is not None] or _NUMBERS.findall(text)[-1:]
    number = number_in(found[0].replace("-$", "$-")) if found else None
    return number is not None and number == number_in(answer)


def _says_letter(text: str, answer: str) -> bool:
    """Whether a text chooses this letter: by a mark, by saying so, or by beginning a line with it."""
    marked = [_LETTER_ALONE.fullmatch(one) for one in _marked(text)]
    stated = [_STATED_LETTER.match(one) for one in _STATED.findall(text)[::-1]]
    found = next((one for one in (*marked, *stated) if one), None) or _LEADING_LETTER.search(text)
    return found is not None and found[1] == answer


def _says_text(text: str, answer: str) -> bool:
    """Whether a text is this answer, or says so by a mark, behind "answer is", or in its last line.

    Case, width, spaces and punctuation around words do not count.
    """
    said = [text, *_marked(text)[:1], *_STATED.findall(text)[-1:], text.strip().rpartition("\n")[2]]
    return _words(answer) in map(_words, said)


def _words(text: str) -> str:
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(word for word in (one.strip(".,;:!?\"'*_`()[]") for one in words) if word)


# How an exact answer is looked for in a text.
ANSWER_MATCHES: Mapping[str, Callable[[str, str], bool]] = {
    "number": _says_number,
    "choice": _says_letter,
    "text": _says_text,
}
