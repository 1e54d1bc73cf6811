"""The JSON of OpenAI's chat completions: how a request is written, and what a response says.

Servers differ in the fields they know, so fields can be left out. A response that is not what it should be is named,
never guessed at. Where a server can hold a model to a JSON schema, questions to a judge may ask for one; the JSON is
then written out in the form that `zephyr.judging` reads, so judges and ledgers see no difference.
"""

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from zephyr.judging import OVERALL, Rating, RatingQuestion, write_reply
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.teachers.protocol import ChatRequest

_SHOWN_CHARACTERS = 200
_SCHEMA_NOTE = (
    "\n\nGive the same content as one JSON object by the schema you were given, instead of headings and lines: "
    "one entry for each text, in order."
)
_OVERALL_NOTE = "\n\nGive the same content as one JSON object by the schema you were given, instead of plain lines."
_TEXT: object = {"type": "string"}
_CRITIQUE: dict[str, object] = {"rationale": _TEXT, "score": {"type": "number"}}
_RATING: dict[str, object] = {
    "types": {"type": "array", "items": {"type": "integer"}},
    "type_rationale": _TEXT,
    "score": {"type": ["number", "null"], "description": "null for N/A, where that may be given"},
    "rationale": _TEXT,
}


class ServerAnswer(NamedTuple):
    """The first choice of a response. Token counts are None where the server does not report them."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    completion_tokens: int | None


class UnusableResponse(NamedTuple):
    """Why a response holds no answer; `is_final` if another try would not help."""

    reason: str
    is_final: bool = False


def body_of(request: ChatRequest, section: EndpointSection) -> dict[str, object]:
    """The JSON object that asks for the request."""
    sampling: dict[str, object] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    if request.top_k:
        sampling["top_k"] = request.top_k
    logprobs = {"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}
    return {
        "model": section.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        section.max_tokens_field: request.max_tokens,
        **{name: value for name, value in sampling.items() if name not in section.left_out},
        **logprobs,
    }


def read_response(content: bytes) -> ServerAnswer | UnusableResponse:
    """The answer in the bytes of a response, or why there is none."""
    try:
        response: object = json.loads(content)
    except (ValueError, RecursionError):
        return UnusableResponse(f"no JSON: {content[:_SHOWN_CHARACTERS].decode('utf-8', 'replace')!r}")
    return read_completion(response)


def read_completion(response: object) -> ServerAnswer | UnusableResponse:
    """The answer in a parsed response, or why there is none."""
    if not isinstance(response, dict) or not isinstance(response.get("choices"), list):
        return UnusableResponse("no choices in the response")
    if not response["choices"]:
        return UnusableResponse("empty choices")
    choice = response["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return UnusableResponse("the choice has no message")
    fault = _fault(choice.get("finish_reason"), message)
    if fault is not None:
        return fault
    prompt_tokens, completion_tokens = _usage(response)
    text = _first_logprobs(choice.get("logprobs")) or message["content"]
    return ServerAnswer(text, choice["finish_reason"], prompt_tokens, completion_tokens)


def _first_logprobs(logprobs: object) -> str:
    """The likeliest first tokens with their log-probs as a JSON object; an empty text if none were requested."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(top, list) or not top:
        return ""
    by_token = {
        one["token"]: one["logprob"]
        for one in top
        if isinstance(one, dict) and isinstance(one.get("token"), str) and isinstance(one.get("logprob"), int | float)
    }
    return json.dumps(by_token)


def _fault(finish_reason: object, message: Mapping[str, object]) -> UnusableResponse | None:
    """Why the message is no answer, or None."""
    text, refusal = message.get("content"), message.get("refusal")
    if finish_reason == "content_filter":
        return UnusableResponse("the server's content filter took the answer", is_final=True)
    if isinstance(refusal, str) and not text:
        return UnusableResponse(f"refused: {refusal[:_SHOWN_CHARACTERS]}", is_final=True)
    if not isinstance(text, str):
        return UnusableResponse(f"the content is {type(text).__name__}, not text")
    if finish_reason not in ("stop", "length"):
        return UnusableResponse(f"the finish_reason is {str(finish_reason)[:40]!r}")
    return None


def _usage(response: Mapping[str, object]) -> tuple[int | None, int | None]:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None, None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return cast("tuple[int, int]", counts)
    return None, None


def with_schema(body: Mapping[str, object], question: RatingQuestion) -> dict[str, object]:
    """The body that requests the same ratings as JSON of a schema."""
    messages = body["messages"]
    assert isinstance(messages, list)
    last = messages[-1]
    note = _OVERALL_NOTE if question.aspect == OVERALL else _SCHEMA_NOTE
    schema = _object(_CRITIQUE) if question.aspect == OVERALL else _object({"texts": _list(_object(_RATING))})
    form: object = {"name": "ratings", "strict": True, "schema": schema}
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


def _object(properties: Mapping[str, object]) -> object:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: object) -> object:
    return {"type": "array", "items": items}
