"""The records that stages exchange, whatever format their rows had.

`name` says where a record comes from ("chats.jsonl row 17", counted from 1) and is used in errors; `source` is the
data set it belongs to, for reports.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from zephyr.records.fields import Json
from zephyr.records.messages import NO_INPUTS, Message, Messages, TemplateInputs, ToolCall

RecordKind = Literal["text", "chat", "prompt", "rated", "preference"]
Shape = Literal[
    "messages", "prompt_completion", "preference", "ultrafeedback", "rated", "sharegpt", "alpaca", "kto", "hh_rlhf",
    "oasst_tree", "glaive", "text", "prompt",
]  # fmt: skip

# The name of the check for an exact answer; all others are names of instructions of IFEval.
ANSWER = "answer"
AnswerMatch = Literal["number", "choice", "text"]

_NO_RATINGS: Mapping[str, float | None] = {}


class Text(NamedTuple):
    """Plain text to pretrain on."""

    name: str
    text: str
    source: str = ""


class Chat(NamedTuple):
    """A dialogue that ends with an answer; `inputs` is what its chat template is given beside the messages."""

    name: str
    messages: Messages
    source: str = ""
    inputs: TemplateInputs = NO_INPUTS


class Check(NamedTuple):
    """What an answer must hold: an instruction of IFEval with its options, or an exact answer and how it is matched."""

    instruction: str
    options: Mapping[str, Json]


class Prompt(NamedTuple):
    """A dialogue without its next answer.

    `knowledge` is what a judge may know about right answers, `checks` what can be checked in them without a model.
    """

    name: str
    messages: Messages
    source: str = ""
    knowledge: str = ""
    checks: tuple[Check, ...] = ()


class Answer(NamedTuple):
    """One answer to a prompt with a judge's scores: overall, and by aspect (None is N/A).

    `principle` is the goal given to the model, `system` the sentence that gave it. `reasoning` is what the model
    thought before it answered, which no judge is shown.
    """

    text: str
    model: str = ""
    score: float | None = None
    ratings: Mapping[str, float | None] = _NO_RATINGS
    rationale: str = ""
    principle: str = ""
    system: str = ""
    reasoning: str = ""


class Rated(NamedTuple):
    """A prompt with its rated answers: feedback before it is binarized. `knowledge` and `checks` as in Prompt."""

    name: str
    prompt: Messages
    answers: tuple[Answer, ...]
    source: str = ""
    knowledge: str = ""
    checks: tuple[Check, ...] = ()


class Preference(NamedTuple):
    """A row of preference training, best first: a pair, a list, or one labelled completion (rated 1.0 or 0.0).

    `models` wrote the completions, empty if unknown; `rule` is how the row was made from ratings. `reasoning` and
    `tool_calls` are those of each completion, empty if none has any; `inputs` as in Chat.
    """

    name: str
    prompt: Messages
    completions: tuple[str, ...]
    ratings: tuple[float, ...]
    source: str = ""
    models: tuple[str, ...] = ()
    rule: str = ""
    inputs: TemplateInputs = NO_INPUTS
    reasoning: tuple[str, ...] = ()
    tool_calls: tuple[tuple[ToolCall, ...], ...] = ()

    @property
    def answers(self) -> Messages:
        """The completions as messages, with their reasoning and tool calls."""
        reasoning = self.reasoning or ("",) * len(self.completions)
        calls = self.tool_calls or ((),) * len(self.completions)
        parts = zip(self.completions, reasoning, calls, strict=True)
        return tuple(Message("assistant", *part) for part in parts)

    def with_answers(self, answers: Messages) -> "Preference":
        """The row with these messages as its completions, their reasoning and tool calls."""
        reasoning, calls = [answer.reasoning for answer in answers], [answer.tool_calls for answer in answers]
        return self._replace(
            completions=tuple(answer.content for answer in answers),
            reasoning=tuple(reasoning) if any(reasoning) else (),
            tool_calls=tuple(calls) if any(calls) else (),
        )


Record = Text | Chat | Prompt | Rated | Preference


def prompt_id(messages: Messages) -> str:
    """The SHA-256 of a prompt in hexadecimal; of its text alone where it is one user message.

    For single turns these are the ids of HuggingFaceH4/ultrachat_200k and ultrafeedback_binarized.
    """
    if len(messages) == 1 and messages[0].role == "user":
        text = messages[0].content
    else:
        # Of a plain message its role and text alone, as in ids made before messages could hold more.
        parts = [message[:2] if message.is_plain else message._replace(learn=True) for message in messages]
        text = json.dumps(parts, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
