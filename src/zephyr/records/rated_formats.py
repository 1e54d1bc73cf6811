"""Rated answers from the formats they are published in: UltraFeedback, one answer a row, and our own.

An empty answer is valid here, unlike in training rows: it was rated like any other.
"""

from collections.abc import Callable

from zephyr.records.dialogue_formats import COMPLETION_NAMES, from_prompt
from zephyr.records.fields import (
    SHOWN_CHARACTERS,
    Fields,
    Json,
    Row,
    UnusableError,
    first_of,
    is_no_score,
    number_of,
    optional_text,
    printable,
    text_of,
    unusable,
)
from zephyr.records.messages import MessageFault, find_message_faults
from zephyr.records.rows import Answer, Rated
from zephyr.records.thinking import split_thinking

# The keys of an answer that are read, in UltraFeedback and in our own format.
ULTRAFEEDBACK_KEYS = frozenset({
    "response", "annotations", "model", "overall_score", "fine-grained_score", "critique", "principle",
    "custom_system_prompt",
})  # fmt: skip
ANSWER_KEYS = frozenset(Answer._fields)
_NO_ANSWER = (None, "", "None")


def from_ultrafeedback(row: Row) -> Rated:
    """The prompt of `instruction` with the rated `completions`.

    `score` is overall_score, or fine-grained_score for prompts that have no overall_score at all: the two have
    different scales, which must not meet in one prompt. `ratings` are those of the aspects.
    openbmb/UltraFeedback on the hub, arXiv 2310.01377.
    """
    completions = row.fields.get("completions")
    fine = _lacks_overall(completions)
    rated = _rated(row, completions, lambda fields: _ultrafeedback_answer(fields, fine=fine))
    return rated._replace(knowledge=_known_answers(row.fields))


def _lacks_overall(completions: Json) -> bool:
    """Whether no completion has an overall score."""
    fields = [one for one in completions if isinstance(one, dict)] if isinstance(completions, list) else []
    return all(is_no_score(one.get("overall_score")) for one in fields)


def _known_answers(fields: Fields) -> str:
    """UltraFeedback's known right and wrong answers to a prompt, as text; empty if there are none."""
    lines = ["What the question takes for granted is not so."] if fields.get("source") == "false_qa" else []
    for name, intro in (("correct_answers", "Correct answers"), ("incorrect_answers", "Incorrect answers")):
        answers = fields.get(name)
        texts = [str(answer) for answer in answers if answer not in _NO_ANSWER] if isinstance(answers, list) else []
        if texts:
            lines.append("\n- ".join([f"{intro}:", *texts]))
    return "\n".join(lines)


def from_rated(row: Row) -> Rated:
    """The prompt with its `answers`, or with the one answer of the row: completion, model, score, rationale."""
    if "answers" in row.fields:
        rated = _rated(row, row.fields["answers"], _answer)
        return rated._replace(knowledge=optional_text(row.fields, "knowledge"))
    fields = row.fields
    answer: dict[str, Json] = {"text": fields[first_of(fields, COMPLETION_NAMES)]}
    answer |= {name: fields[name] for name in ("model", "score", "ratings", "rationale") if name in fields}
    return _rated(row, [answer], _answer)


def _rated(row: Row, values: Json, read: Callable[[Fields], Answer]) -> Rated:
    """The record with all its answers. Raises UnusableError with the faults of all of them."""
    prompt = from_prompt(row.fields)
    faults = find_message_faults(prompt, ends_with="user")
    answers: list[Answer] = []
    if not isinstance(values, list) or not values:
        raise unusable("no answers", "there is no list of answers")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            faults.append(MessageFault("answer is no object", f"answer {number} is no object"))
            continue
        try:
            answers.append(read(value))
        except UnusableError as error:
            faults += [MessageFault(fault.reason, f"answer {number}: {fault.what}") for fault in error.faults]
    if faults:
        raise UnusableError(faults)
    return Rated(row.name, prompt, tuple(answers))


def _ultrafeedback_answer(fields: Fields, *, fine: bool) -> Answer:
    annotations = fields.get("annotations")
    ratings: dict[str, float | None] = {}
    for aspect, annotation in (annotations if isinstance(annotations, dict) else {}).items():
        rating = annotation.get("Rating") if isinstance(annotation, dict) else annotation
        ratings[aspect] = number_of(rating, _rating_of(aspect))
    name = "fine-grained_score" if fine else "overall_score"
    texts = (optional_text(fields, name) for name in ("critique", "principle", "custom_system_prompt"))
    text, reasoning = split_thinking(text_of(fields.get("response"), "answer"))
    answer = Answer(text, optional_text(fields, "model"), number_of(fields.get(name), name), ratings, *texts)
    return answer._replace(reasoning=reasoning)


def _answer(fields: Fields) -> Answer:
    ratings = fields.get("ratings") or {}
    if not isinstance(ratings, dict):
        raise unusable("ratings are no object", "the ratings are no object of aspects")
    by_aspect = {aspect: number_of(rating, _rating_of(aspect)) for aspect, rating in ratings.items()}
    score = number_of(fields.get("score"))
    texts = (optional_text(fields, name) for name in ("rationale", "principle", "system"))
    text, reasoning = split_thinking(text_of(fields.get("text"), "answer"))
    answer = Answer(text, optional_text(fields, "model"), score, by_aspect, *texts)
    return answer._replace(reasoning=reasoning or optional_text(fields, "reasoning"))


def _rating_of(aspect: str) -> str:
    return f"rating of {printable(aspect)[:SHOWN_CHARACTERS]}"
