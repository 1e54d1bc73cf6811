"""Questions to a judge asked as JSON by a schema, where a server can hold a model to one.

The JSON is written out in the form that `zephyr.judging` reads, so judges and ledgers see no difference. Where a
reply is no such JSON, or the server does not know `response_format`, the strict reader of that form has the say.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus

from zephyr.judging import OVERALL, Rating, RatingQuestion, read_question, write_reply
from zephyr.teachers.endpoint.chat_format import Json
from zephyr.teachers.endpoint.retries import Trouble
from zephyr.teachers.protocol import ChatRequest

NOTE = (
    "\n\nGive the same content as one JSON object by the schema you were given, instead of headings and lines: "
    "one entry for each text, in order."
)
OVERALL_NOTE = "\n\nGive the same content as one JSON object by the schema you were given, instead of plain lines."
REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)

_TEXT: Json = {"type": "string"}
_CRITIQUE: dict[str, Json] = {"rationale": _TEXT, "score": {"type": "number"}}
_RATING: dict[str, Json] = {
    "types": {"type": "array", "items": {"type": "integer"}},
    "type_rationale": _TEXT,
    "score": {"type": ["number", "null"], "description": "null for N/A, where that may be given"},
    "rationale": _TEXT,
}


class ResponseForms:
    """Which requests get a schema. A server that refuses one is not sent another."""

    def __init__(self, *, is_wanted: bool) -> None:
        self.is_wanted = is_wanted

    def question_of(self, request: ChatRequest) -> RatingQuestion | None:
        """The question to a judge that the request is, if it is to have a schema."""
        if not self.is_wanted:
            return None
        try:
            return read_question(request.messages)
        except ValueError:
            return None

    def was_refused(self, trouble: Trouble) -> bool:
        """Whether the server does not take schemas; none is sent from then on."""
        if trouble.reason.startswith(tuple(f"HTTP {status.value}" for status in REFUSALS)):
            self.is_wanted = False
            return True
        return False


def with_schema(body: Mapping[str, Json], question: RatingQuestion) -> dict[str, Json]:
    """The body that asks for the same as JSON."""
    messages = body["messages"]
    assert isinstance(messages, list)
    last = messages[-1]
    note = OVERALL_NOTE if question.aspect == OVERALL else NOTE
    schema = _object(_CRITIQUE) if question.aspect == OVERALL else _object({"texts": _list(_object(_RATING))})
    form: Json = {"name": "ratings", "strict": True, "schema": schema}
    return {
        **body,
        "messages": [*messages[:-1], {**last, "content": last["content"] + note}],
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def written_out(question: RatingQuestion, text: str) -> str:
    """The reply in the form of `zephyr.judging`; the text itself if it is not JSON of the schema."""
    try:
        answer: object = json.loads(text)
        entries = [answer] if question.aspect == OVERALL else _entries(answer)
        ratings = [_rating(entry) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
    return write_reply(question.aspect, ratings) if len(ratings) == len(question.answers) else text


def _entries(answer: object) -> list[object]:
    if not isinstance(answer, dict) or not isinstance(answer["texts"], list):
        raise TypeError("no list of texts")
    return answer["texts"]


def _rating(entry: object) -> Rating:
    if not isinstance(entry, dict):
        raise TypeError("no object")
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise TypeError("no number")
    types = tuple(int(kind) for kind in entry.get("types", ()))
    return Rating(score, str(entry["rationale"]), types, str(entry.get("type_rationale", "")))


def _object(properties: Mapping[str, Json]) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}
