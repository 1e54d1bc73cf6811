"""Declarations of tools and calls of tools, from the ways in which data sets write them.

Declarations: OpenAI's `tools` and its older `functions`, as lists or as their JSON text. Calls: OpenAI's `tool_calls`
and its older `function_call`, and the texts of LLaMA-Factory (JSON), Hermes (<tool_call>) and Glaive (<functioncall>).
"""

import json
import re

from zephyr.records.fields import Fields, Json, brief, text_of, unusable
from zephyr.records.messages import Message, Messages, ToolCall

# Around a call in a text: Hermes and Qwen; Glaive, whose call runs to the end of the text.
_CALL_TAGS = re.compile(
    r"<tool_call>(.*?)</tool_call>|<functioncall>(.*?)(?:</functioncall>|<\|endoftext\|>|$)", re.DOTALL
)
_ANSWER_TAGS = re.compile(r"\s*<tool_response>(.*)</tool_response>\s*", re.DOTALL)
# Glaive writes the arguments as JSON text in single quotes, inside of JSON.
_QUOTED_ARGUMENTS = re.compile(r"""("arguments"\s*:\s*)'(.*)'(\s*\}\s*)$""", re.DOTALL)


def tools_of(value: Json, what: str) -> str:
    """The declarations as the JSON text of a list; empty if there are none. Raises UnusableError for other values.

    A bare function becomes {"type": "function", "function": ...}, the form that chat templates expect.
    """
    if isinstance(value, str):
        value = json_of(value, what) if value.strip() else None
    if value is None or value == []:
        return ""
    tools = value if isinstance(value, list) else [value]
    wrapped: list[Json] = []
    for tool in tools:
        if not isinstance(tool, dict) or not ("function" in tool or "name" in tool or "type" in tool):
            raise unusable(
                f"{what} are no declarations", f"the field {what} has no declaration of a tool, got {brief(tool)}"
            )
        is_bare = "function" not in tool and "name" in tool
        wrapped.append({"type": "function", "function": _without(tool, "type")} if is_bare else tool)
    return json.dumps(wrapped, ensure_ascii=False)


def tool_calls_of(value: Json, what: str) -> tuple[ToolCall, ...]:
    """The calls of OpenAI's `tool_calls`, or the one of `function_call`. Raises UnusableError."""
    if isinstance(value, str):
        value = json_of(value, what) if value.strip() else None
    if value is None:
        return ()
    return tuple(_call_of(call, what) for call in (value if isinstance(value, list) else [value]))


def text_calls_of(text: str) -> tuple[ToolCall, ...]:
    """The calls of a text that is nothing else: JSON, or JSON in tags. Raises UnusableError."""
    if _CALL_TAGS.search(text):
        return _tagged_calls(text)
    return tool_calls_of(json_of(text, "tool call"), "tool call")


def with_tagged_calls(messages: Messages) -> Messages:
    """The messages of a dialogue with tools, with calls and tools' answers taken out of their tags."""
    return tuple(map(_untagged, messages))


def _untagged(message: Message) -> Message:
    if message.role == "tool":
        found = _ANSWER_TAGS.fullmatch(message.content)
        return message._replace(content=found[1].strip("\n")) if found else message
    if message.role != "assistant" or message.tool_calls or not _CALL_TAGS.search(message.content):
        return message
    text = _CALL_TAGS.sub("", message.content).strip()
    return message._replace(content=text, tool_calls=_tagged_calls(message.content))


def _tagged_calls(text: str) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for found in _CALL_TAGS.finditer(text):
        said = (found[1] or found[2] or "").strip()
        calls += tool_calls_of(json_of(_QUOTED_ARGUMENTS.sub(_requoted, said), "tool call"), "tool call")
    return tuple(calls)


def _requoted(found: "re.Match[str]") -> str:
    return found[1] + json.dumps(found[2], ensure_ascii=False) + found[3]


def _call_of(value: Json, what: str) -> ToolCall:
    if not isinstance(value, dict):
        raise unusable(f"{what} is no call", f"has {what} without the name of a tool, got {brief(value)}")
    function = value.get("function")
    called: Fields = function if isinstance(function, dict) else value
    name = called.get("name")
    if not isinstance(name, str) or not name.strip():
        raise unusable(f"{what} is no call", f"has {what} without the name of a tool, got {brief(value)}")
    given = called.get("arguments", called.get("parameters"))
    if given is None or given == "":
        given = {}
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return ToolCall(name, arguments, text_of(value.get("id") or "", "id of a tool call"))


def json_of(text: str, what: str) -> Json:
    """The value of a JSON text. Raises UnusableError, which names `what` it is."""
    try:
        value: Json = json.loads(text)
    except ValueError:
        raise unusable(f"{what} is no JSON", f"has {what} that is no JSON, got {brief(text)}") from None
    return value


def objects_of(text: str, what: str) -> list[Json]:
    """The JSON values that a text holds one after the other. Raises UnusableError, which names `what` it is."""
    found: list[Json] = []
    rest = text.strip()
    while rest:
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            raise unusable(f"{what} is no JSON", f"has {what} that is no JSON, got {brief(rest)}") from None
        found.append(value)
        rest = rest[end:].strip()
    return found


def _without(fields: dict[str, Json], key: str) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if name != key}
