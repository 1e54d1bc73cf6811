"""The JSON of OpenAI's chat completions: how a request is written, and what a response says.

Servers differ in the fields they know, so fields can be left out. A response that is not what it should be is named,
never guessed at. Where a server can hold a model to a JSON schema, questions to a judge may ask for one; the JSON is
then written out in the form that `zephyr.judging` reads, so judges and ledgers see no difference.
"""

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from zephyr.judging import OVERALL, Rating, RatingQuestion, write_reply
from zephyr.recipe.teacher_section import EndpointSection
from zephyr.records.messages import system_within_user
from zephyr.records.thinking import Spoken, join_thinking, split_thinking, whole_characters
from zephyr.teachers.endpoint.troubles import Trouble, server_words, trouble_in_answer
from zephyr.teachers.protocol import ChatRequest, only_thinking

MOST_TOKENS_A_CALL = 10**9
_MOST_BRACES = 200  # looked at for an object; a judge's reply has few
# Why answers end, beside the usual "stop", in the words of many servers; any other word leaves a whole text whole.
_CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length", "token_limit", "incomplete"}
_FILTERED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive"}
_BROKEN = {"error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource", "network_error"}
_NO_LOGPROBS = Trouble(
    "the response has no log-probs, by which this judge prompt is read",
    is_final=True,
    is_ours=True,
    remedy="name a judge that gives them, or use another wording",
)
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
    """The first choice of a response, its thinking apart. Token counts are None where the server has no sound ones."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: str = ""


def body_of(request: ChatRequest, section: EndpointSection) -> dict[str, object]:
    """The JSON object that asks for the request."""
    sampling: dict[str, object] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    if request.top_k:
        sampling["top_k"] = request.top_k
    messages = system_within_user(request.messages) if section.system_role == "user" else request.messages
    logprobs = {"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}
    return {
        "model": section.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        section.max_tokens_field: request.max_tokens,
        **{name: value for name, value in sampling.items() if name not in section.left_out},
        **logprobs,
    }


def read_response(content: bytes, *, top_logprobs: bool = False) -> ServerAnswer | Trouble:
    """The answer in the bytes of a response, or why there is none."""
    try:
        response: object = json.loads(content)
    except (ValueError, RecursionError):
        return Trouble(f"no JSON: {content.decode('utf-8', 'replace')!r}", may_be_billed=True)
    return read_completion(response, top_logprobs=top_logprobs)


def read_completion(response: object, *, top_logprobs: bool = False) -> ServerAnswer | Trouble:
    """The answer in a parsed response, or why there is none; `top_logprobs`: the answer is the first token's."""
    choice = _first_choice(response)
    if isinstance(choice, Trouble):
        return choice._replace(may_be_billed=True)
    assert isinstance(response, dict)
    found = _answer(choice, top_logprobs=top_logprobs)
    used = _usage(response.get("usage"))
    if isinstance(found, Trouble):
        # A server that has counted an answer will count the next one too.
        is_paid = used is not None and used[1] > 0
        return found._replace(may_be_billed=True, used=used, is_final=found.is_final or is_paid)
    if used is None or (found.text and not used[1]):
        return found
    return found._replace(prompt_tokens=used[0], completion_tokens=used[1])


def _first_choice(response: object) -> dict[str, object] | Trouble:
    """The first choice, with a message."""
    if not isinstance(response, dict):
        return Trouble("no choices in the response")
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices:
        if response.get("error"):
            return trouble_in_answer(response["error"])
        what = "empty choices" if isinstance(choices, list) else "no choices in the response"
        words = server_words(json.dumps(response)) if response.keys() & {"detail", "message"} else ""
        return Trouble(f"{what}: {words}" if words else what)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    if isinstance(choice.get("message"), dict):
        return choice
    if isinstance(choice.get("text"), str):  # as of a completion without chat
        return {**choice, "message": {"content": choice["text"]}}
    return Trouble("the choice has no message")


def _answer(choice: Mapping[str, object], *, top_logprobs: bool) -> ServerAnswer | Trouble:
    """What the choice says, its tokens not counted."""
    message = choice["message"]
    assert isinstance(message, dict)
    said = choice.get("finish_reason")
    reason = said.lower() if isinstance(said, str) else ""
    text, thought = _text_of(message.get("content"))
    fault = _fault(choice, message, reason, text)
    if fault is not None:
        return fault
    finish: Literal["stop", "length"] = "length" if reason in _CUT_OFF else "stop"
    if top_logprobs:
        logprobs = _first_logprobs(choice.get("logprobs"))
        return ServerAnswer(logprobs, finish, None, None) if logprobs else _NO_LOGPROBS
    thought = thought or _thought_of(message)
    if text is None and not thought:
        return Trouble(f"the content is {type(message.get('content')).__name__}, not text")
    spoken = split_thinking(whole_characters(join_thinking(Spoken(text or "", thought))))
    if not spoken.answer.strip() and spoken.reasoning:
        return Trouble(only_thinking(is_cut=finish == "length"), is_final=True)
    return ServerAnswer(spoken.answer, finish, None, None, spoken.reasoning)


def _fault(
    choice: Mapping[str, object], message: Mapping[str, object], reason: str, text: str | None
) -> Trouble | None:
    """Why the choice is no answer by its own words, or None."""
    refusal, error = message.get("refusal"), choice.get("error")
    if reason in _FILTERED:
        return Trouble("the server's content filter took the answer", is_final=True)
    if isinstance(refusal, str) and refusal and not text:
        return Trouble(f"refused: {whole_characters(refusal)}", is_final=True)
    if reason in _BROKEN:
        return Trouble(f"the answer ended in '{reason}'{': ' + server_words(json.dumps(error)) if error else ''}")
    if text is None and (message.get("tool_calls") or message.get("function_call")):
        return Trouble("the model called a tool instead of answering", is_final=True)
    return None


def _text_of(content: object) -> tuple[str | None, str]:
    """The text of a message's content, None if it has none, and the thinking among its parts."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return None, ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if isinstance(part, dict) and "think" not in str(part.get("type")) and "reason" not in str(part.get("type")):
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
        elif isinstance(part, dict):
            thoughts.append(_thought_of(part))
    return "".join(texts) if texts else None, "\n".join(thought for thought in thoughts if thought)


def _thought_of(message: Mapping[str, object]) -> str:
    """The thinking in a message or a part of one, under the names that servers give it."""
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details", "text"):
        value = message.get(name)
        if name == "text" and "content" in message:
            break
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, list):
            parts = [one if isinstance(one, str) else _thought_of(one) for one in value if isinstance(one, str | dict)]
            if any(parts):
                return "\n".join(part for part in parts if part)
    return ""


def _first_logprobs(logprobs: object) -> str:
    """The likeliest first tokens with their log-probs as a JSON object; an empty text if none are there."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    by_token = {
        whole_characters(one["token"]): float(one["logprob"])
        for one in (top if isinstance(top, list) else [])
        if isinstance(one, dict) and isinstance(one.get("token"), str) and _is_logprob(one.get("logprob"))
    }
    return json.dumps(by_token) if by_token else ""


def _is_logprob(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 <= value <= 0.001


def _usage(usage: object) -> tuple[int, int] | None:
    """The tokens of prompt and completion; None unless both are counts that can be."""
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    return None if prompt is None or completion is None else (prompt, completion)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS_A_CALL:
        return None
    return int(value) if value == int(value) else None


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


def written_out(question: RatingQuestion, text: str, *, word: str = "") -> str:
    """The reply in the form of `zephyr.judging`; the text itself if it holds no JSON of the schema, or holds it twice.

    The object may stand in a fence, and sentences around it; one that is copied from a rated text does not count.
    `word`: what its lines then must carry.
    """
    answers = [answer for answer, written in _objects(text) if not any(written in one for one in question.answers)]
    found = [entries for answer in answers if (entries := _entries(question, answer)) is not None]
    if len(found) != 1 or len(found[0]) != len(question.answers):
        return text
    try:
        ratings = [_rating(entry) for entry in found[0]]
        return write_reply(question.aspect, ratings, word=word, scale=question.scale)
    except (ValueError, TypeError, KeyError, OverflowError):
        return text


def _objects(text: str) -> list[tuple[dict[str, object], str]]:
    """The JSON objects in the text as read and as written, outermost only; none where a key comes twice in one."""
    keys_twice: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        keys_twice.extend(name for name, _ in pairs[len(fields) :])
        return fields

    decoder = json.JSONDecoder(object_pairs_hook=once)
    found: list[tuple[dict[str, object], str]] = []
    place = text.find("{")
    for _ in range(_MOST_BRACES):
        if place < 0:
            break
        try:
            answer, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            found.append((answer, text[place:end]))
        place = text.find("{", end)
    return [] if keys_twice else found


def _entries(question: RatingQuestion, answer: dict[str, object]) -> list[object] | None:
    """The parts of an answer that hold the ratings; None if it is an object of another kind."""
    if question.aspect == OVERALL:
        return [answer] if "score" in answer else None
    texts = answer.get("texts")
    return texts if isinstance(texts, list) else None


def _rating(entry: object) -> Rating:
    if not isinstance(entry, dict):
        raise TypeError("no object")
    score, rationale, type_rationale = entry["score"], entry["rationale"], entry.get("type_rationale", "")
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise TypeError("no number")
    if score is not None and float(f"{score:g}") != score:
        raise ValueError("no number that a rating can be")
    if not isinstance(rationale, str) or not isinstance(type_rationale, str):
        raise TypeError("no rationale")
    kinds = entry.get("types", [])
    if not isinstance(kinds, list) or not all(type(kind) is int for kind in kinds):
        raise TypeError("no types")
    return Rating(score, rationale, tuple(kinds), type_rationale)


def _object(properties: Mapping[str, object]) -> object:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: object) -> object:
    return {"type": "array", "items": items}
