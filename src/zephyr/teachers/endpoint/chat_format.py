"""The JSON of OpenAI's chat completions: how a request is written, and what a response says.

Servers differ in what they know, so fields can be left out. A response that is not what it should be is named,
never guessed at.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

from zephyr.recipe.teacher_section import EndpointSection
from zephyr.teachers.protocol import ChatRequest

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
SHOWN_CHARACTERS = 200


class Answered(NamedTuple):
    """The first choice of a response. Token counts are None where the server does not give them."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    completion_tokens: int | None


class Unusable(NamedTuple):
    """Why a response holds no answer; `is_final` if the server means it."""

    reason: str
    is_final: bool = False


def body_of(request: ChatRequest, section: EndpointSection) -> dict[str, Json]:
    """The JSON object that asks for the request."""
    sampling: dict[str, Json] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    if request.top_k:
        sampling["top_k"] = request.top_k
    logprobs: dict[str, Json] = {"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}
    return {
        "model": section.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        section.max_tokens_field: request.max_tokens,
        **{name: value for name, value in sampling.items() if name not in section.left_out},
        **logprobs,
    }


def read_response(content: bytes) -> Answered | Unusable:
    """What the bytes of a response say."""
    try:
        response: object = json.loads(content)
    except (ValueError, RecursionError):
        return Unusable(f"no JSON: {content[:SHOWN_CHARACTERS].decode('utf-8', 'replace')!r}")
    return read_completion(response)


def read_completion(response: object) -> Answered | Unusable:
    """What a response, as an object, says."""
    if not isinstance(response, dict) or not isinstance(response.get("choices"), list):
        return Unusable("no choices in the response")
    if not response["choices"]:
        return Unusable("empty choices")
    choice = response["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Unusable("the choice has no message")
    fault = _fault(choice.get("finish_reason"), message)
    if fault is not None:
        return fault
    prompt_tokens, completion_tokens = _usage(response)
    text = _first_logprobs(choice.get("logprobs")) or message["content"]
    return Answered(text, choice["finish_reason"], prompt_tokens, completion_tokens)


def _first_logprobs(logprobs: object) -> str:
    """The likeliest first tokens with their log-probs as a JSON object; an empty text if none were asked for."""
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


def _fault(finish_reason: object, message: Mapping[str, object]) -> Unusable | None:
    """Why the message is no answer, or None."""
    text, refusal = message.get("content"), message.get("refusal")
    if finish_reason == "content_filter":
        return Unusable("the server's content filter took the answer", is_final=True)
    if isinstance(refusal, str) and not text:
        return Unusable(f"refused: {refusal[:SHOWN_CHARACTERS]}", is_final=True)
    if not isinstance(text, str):
        return Unusable(f"the content is {type(text).__name__}, not text")
    if finish_reason not in ("stop", "length"):
        return Unusable(f"the finish_reason is {str(finish_reason)[:40]!r}")
    return None


def _usage(response: Mapping[str, object]) -> tuple[int | None, int | None]:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None, None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return cast("tuple[int, int]", counts)
    return None, None
