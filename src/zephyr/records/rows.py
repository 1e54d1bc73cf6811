"""The records that stages exchange, whatever format their rows had.

`name` says where a record comes from ("chats.jsonl row 17", counted from 1) and is used in errors; `source` is the
data set it belongs to, for reports.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from zephyr.records.messages import Messages

RecordKind = Literal["text", "chat", "prompt", "rated", "preference"]
Shape = Literal[
    "messages", "prompt_completion", "preference", "ultrafeedback", "rated", "sharegpt", "alpaca", "kto", "hh_rlhf",
    "oasst_tree", "text", "prompt",
]  # fmt: skip

_NO_RATINGS: Mapping[str, float | None] = {}


class Text(NamedTuple):
    """Plain text to pretrain on."""

    name: str
    text: str
    source: str = ""


class Chat(NamedTuple):
    """A dialogue that ends with an answer."""

    name: str
    messages: Messages
    source: str = ""


class Prompt(NamedTuple):
    """A dialogue without its next answer; `knowledge` is what a judge may know about right answers."""

    name: str
    messages: Messages
    source: str = ""
    knowledge: str = ""


class Answer(NamedTuple):
    """One answer to a prompt with a judge's scores: overall, and by aspect (None is N/A).

    `principle` is the goal given to the model, `system` the sentence that gave it.
    """

    text: str
    model: str = ""
    score: float | None = None
    ratings: Mapping[str, float | None] = _NO_RATINGS
    rationale: str = ""
    principle: str = ""
    system: str = ""


class Rated(NamedTuple):
    """A prompt with its rated answers: feedback before it is binarized. `knowledge` as in Prompt."""

    name: str
    prompt: Messages
    answers: tuple[Answer, ...]
    source: str = ""
    knowledge: str = ""


class Preference(NamedTuple):
    """A row of preference training, best first: a pair, a list, or one labelled completion (rated 1.0 or 0.0).

    `models` wrote the completions, empty if unknown; `rule` is how the row was made from ratings.
    """

    name: str
    prompt: Messages
    completions: tuple[str, ...]
    ratings: tuple[float, ...]
    source: str = ""
    models: tuple[str, ...] = ()
    rule: str = ""


Record = Text | Chat | Prompt | Rated | Preference


def prompt_id(messages: Messages) -> str:
    """The SHA-256 of a prompt in hexadecimal; of its text alone where it is one user message.

    For single turns these are the ids of HuggingFaceH4/ultrachat_200k and ultrafeedback_binarized.
    """
    if len(messages) == 1 and messages[0].role == "user":
        text = messages[0].content
    else:
        text = json.dumps(messages, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
