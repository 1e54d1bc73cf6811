"""Texts in the languages a recipe keeps, told by `py3langid`, whose model of 139 languages comes inside the package."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from zephyr.data.filters.row_filter import Verdict, all_texts
from zephyr.records.rows import Record

FEWEST_LETTERS = 40
SURE = 0.9
MOST_CHARACTERS = 2_000
# Code and addresses are in no language; of written Chinese the model tells several kinds apart, a recipe does not.
_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|(?:https?://|www\.)\S+|\S+@\S+|[\d_]+", re.DOTALL)
_SAME = {"yue": "zh", "wuu": "zh", "lzh": "zh", "nan": "zh", "nb": "no", "nn": "no"}


@dataclass(frozen=True)
class LanguageFilter:
    """Drops rows that are surely in another language; what is too short or too mixed to tell is kept."""

    keep: tuple[str, ...]
    name: str = "language"

    def judge(self, record: Record) -> Verdict:
        """What becomes of `record`."""
        # The first part of each text, so that a long answer does not drown the question.
        text = "\n".join(text[:MOST_CHARACTERS] for text in all_texts(record))
        language = language_of(text)
        if language is None or language in self.keep:
            return Verdict(record)
        return Verdict(None, f"language {language}", text)


def language_of(text: str) -> str | None:
    """The two letters of the language of `text`, or None if it cannot be told with some certainty."""
    prose = _NO_LANGUAGE.sub(" ", text)
    # A Chinese character says as much as a few letters.
    letters = sum(1 if character < "\u3000" else 4 for character in prose if character.isalpha())
    if letters < FEWEST_LETTERS:
        return None
    language, probability = _identifier().classify(prose)
    return _SAME.get(language, language) if probability >= SURE else None


class _Identifier(Protocol):
    """The one method of py3langid, which carries no types, that is used here."""

    def classify(self, instance: str) -> tuple[str, float]: ...


@cache
def _identifier() -> _Identifier:
    # Loaded on first use: it takes a second and 100 MB.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    identifier: _Identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier
