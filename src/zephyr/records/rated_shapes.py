"""Rated answers from the shapes they are published in: UltraFeedback as it is, one answer a row, and our own.

An empty answer is a fault of a training row, but here it was rated like any other.
"""

from collections.abc import Callable

from zephyr.records.dialogue_shapes import COMPLETIONS, from_prompt
from zephyr.records.fields import SHOWN_CHARACTERS, Json, Row, printable
from zephyr.records.messages import MessageFault, find_message_faults
from zephyr.records.rows import Answer, Rated
from zephyr.records.values import (
    Fields,
    UnusableError,
    first_of,
    optional_text,
    score_of,
    text_of,
    unusable,
)


def from_ultrafeedback(row: Row) -> Rated:
    """The prompt of `instruction` with the rated `completions`.

    `score` is overall_score, or fine-grained_score where that is missing; `ratings` are those of the aspects.
    openbmb/UltraFeedback on the hub, arXiv 2310.01377.
    """
    return _rated(row, row.fields.get("completions"), _ultrafeedback_answer)


def from_rated(row: Row) -> Rated:
    """The prompt with its `answers`, or with the one answer that a row has: completion, model, score, rationale."""
    if "answers" in row.fields:
        return _rated(row, row.fields["answers"], _answer)
    fields = row.fields
    answer: dict[str, Json] = {"text": fields[first_of(fields, COMPLETIONS)]}
    answer |= {name: fields[name] for name in ("model", "score", "ratings", "rationale") if name in fields}
    return _rated(row, [answer], _answer)


def _rated(row: Row, values: Json, read: Callable[[Fields], Answer]) -> Rated:
    """The record with all its answers; what is wrong with any of them is said together."""
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


def _ultrafeedback_answer(fields: Fields) -> Answer:
    annotations = fields.get("annotations")
    ratings: dict[str, float | None] = {}
    for aspect, annotation in (annotations if isinstance(annotations, dict) else {}).items():
        rating = annotation.get("Rating") if isinstance(annotation, dict) else annotation
        ratings[aspect] = score_of(rating, _rating_of(aspect))
    score = score_of(fields.get("overall_score"))
    if score is None:
        score = score_of(fields.get("fine-grained_score"), "fine-grained_score")
    text = text_of(fields.get("response"), "answer")
    return Answer(text, optional_text(fields, "model"), score, ratings, optional_text(fields, "critique"))


def _answer(fields: Fields) -> Answer:
    ratings = fields.get("ratings") or {}
    if not isinstance(ratings, dict):
        raise unusable("ratings are no object", "the ratings are no object of aspects")
    by_aspect = {aspect: score_of(rating, _rating_of(aspect)) for aspect, rating in ratings.items()}
    score = score_of(fields.get("score"))
    text = text_of(fields.get("text"), "answer")
    return Answer(text, optional_text(fields, "model"), score, by_aspect, optional_text(fields, "rationale"))


def _rating_of(aspect: str) -> str:
    return f"rating of {printable(aspect)[:SHOWN_CHARACTERS]}"
