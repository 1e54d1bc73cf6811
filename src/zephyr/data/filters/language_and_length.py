"""The filters `language` and `length`, which look at one row at a time.

Languages are detected by `py3langid`, whose model of 139 languages comes inside the package. Lengths are in characters
and messages; truncation looks at tokens.
"""

import re
from functools import cache
from typing import Protocol

from zephyr.data.filters.row_filter import TextFault, Verdict, all_texts, candidates, context, without_faulty_answers
from zephyr.recipe.data_section import LanguageFilter, LengthFilter
from zephyr.records.rows import Chat, Prompt, Rated, Record

FEWEST_LETTERS = 40
SURE = 0.9
MOST_CHARACTERS = 2_000
# Code and addresses have no language; the model distinguishes several kinds of Chinese and Norwegian.
_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|(?:https?://|www\.)\S+|\S+@\S+|[\d_]+", re.DOTALL)
_SAME = {"yue": "zh", "wuu": "zh", "lzh": "zh", "nan": "zh", "nb": "no", "nn": "no"}


def judge_language(section: LanguageFilter, record: Record) -> Verdict:
    """`record`, dropped if it is clearly in another language; texts too short or too mixed to detect are kept."""
    # The first part of each text, so that a long answer does not drown the question.
    text = "\n".join(text[:MOST_CHARACTERS] for text in all_texts(record))
    language = language_of(text)
    if language is None or language in section.keep:
        return Verdict(record)
    return Verdict(None, f"language {language}", text)


def language_of(text: str) -> str | None:
    """The two letters of the language of `text`, or None where the detection is not certain."""
    prose = _NO_LANGUAGE.sub(" ", text)
    # A Chinese character carries as much as a few letters.
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


def judge_length(section: LengthFilter, record: Record) -> Verdict:
    """`record`, dropped if its shortest answer is too short, the row too long, or its messages too many.

    The length of a row is that of its prompt and longest answer. Of rated answers only the faulty ones are removed.
    """
    messages = context(record)
    turns = len(messages) + (0 if isinstance(record, Chat | Prompt) else bool(candidates(record)))
    if section.max_turns is not None and turns > section.max_turns:
        return Verdict(None, f"more than {section.max_turns} messages", f"{turns} messages")
    before = sum(len(message.content) for message in messages)
    if isinstance(record, Rated) and record.answers:
        return without_faulty_answers(
            record, lambda answer: _length_fault(section, answer.text, before + len(answer.text))
        )
    if isinstance(record, Chat):
        answers = [message.content for message in messages if message.role == "assistant"]
        longest = before
    else:
        answers = list(candidates(record))
        longest = before + max(map(len, answers), default=0)
    fault = _length_fault(section, min(answers, key=_stripped_length, default=None), longest)
    return Verdict(None, fault.reason, fault.evidence) if fault else Verdict(record)


def _length_fault(section: LengthFilter, answer: str | None, row_characters: int) -> TextFault | None:
    if answer is not None and _stripped_length(answer) < section.min_characters:
        return TextFault(f"answer shorter than {section.min_characters} characters", answer)
    if section.max_characters is not None and row_characters > section.max_characters:
        return TextFault(f"row longer than {section.max_characters} characters", f"{row_characters} characters")
    return None


def _stripped_length(text: str) -> int:
    return len(text.strip())
