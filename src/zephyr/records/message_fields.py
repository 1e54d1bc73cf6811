"""Messages from the objects that data sets hold: speakers, texts, reasoning, tool calls, and marks of what to learn.

The keys of a message that are read stand here alone; `unread_keys` names the others. Formats: OpenAI's chat and
fine-tuning API (tool_calls, function_call, weight), ShareGPT with LLaMA-Factory's speakers (function_call,
observation), axolotl's `train`.
"""

import re
from collections.abc import Sequence

from zephyr.records.fields import Fields, Json, UnusableError, brief, listed, text_of, unusable
from zephyr.records.messages import Message, MessageFault, Messages, Role, ToolCall
from zephyr.records.tool_fields import text_calls_of, tool_calls_of

_SPEAKERS: dict[str, Role] = {
    "system": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool",
}  # fmt: skip
# Speakers whose text is a call.
_CALLERS = frozenset({"function_call", "tool_call"})
# Template text around a speaker's name, as in <|start_header_id|>user<|end_header_id|>; or the name inside: <|user|>.
_HEADER = re.compile(r"<\|(?:start_header_id|end_header_id|im_start|im_end)\|>|<\||\|>|:$")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)

SPEAKER_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
CALL_KEYS = ("tool_calls", "function_call")
ANSWERED_CALL_KEYS = ("name", "tool_call_id")
LEARN_KEYS = ("weight", "train", "training", "trainable", "do_train")
MASK_KEYS = ("mask", "masked")
#: Keys of the first message that declare the tools of its dialogue.
TOOL_LIST_KEYS = ("tools", "functions")
_READ_ALWAYS = frozenset({*SPEAKER_KEYS, *TEXT_KEYS, *REASONING_KEYS, *CALL_KEYS, *LEARN_KEYS, *MASK_KEYS})


def unread_keys(message: Fields, *, is_first: bool = False) -> list[str]:
    """The keys of a message object that say something, not null or empty, and that no reader here uses."""
    read = set(_READ_ALWAYS)
    if role_of(_first(message, SPEAKER_KEYS)) == "tool":
        read.update(ANSWERED_CALL_KEYS)
    if is_first:
        read.update(TOOL_LIST_KEYS)
    return [key for key, value in message.items() if key not in read and value not in (None, "", [], {})]


def role_of(value: Json) -> Role | None:
    """The role of a speaker under the names that data sets use; None for others."""
    return _SPEAKERS.get(_speaker(value))


def messages_of(value: Json, what: str) -> Messages:
    """The messages of a list of {role, content} or {from, value}, in any order of roles. Raises UnusableError."""
    if isinstance(value, dict):
        value = [value]
    if value is None:
        raise unusable(f"null {what}", f"the field {what} is null or missing")
    if not isinstance(value, list):
        is_python = isinstance(value, str) and value.lstrip().startswith(("[{'", "{'"))
        hint = "; it is a list as Python prints it: write it with json.dumps" if is_python else ""
        raise unusable(f"{what} is no list", f"the field {what} is no list of messages, got {brief(value)}{hint}")
    messages: list[Message] = []
    faults: list[MessageFault] = []
    for number, item in enumerate(value, 1):
        try:
            messages.append(_message_of(item, number))
        except UnusableError as error:
            faults += error.faults
    if faults:
        raise UnusableError(faults)
    return tuple(messages)


def _message_of(item: Json, number: int) -> Message:
    if not isinstance(item, dict):
        raise unusable("message is no object", f"message {number} is no object, got {brief(item)}")
    speaker = _first(item, SPEAKER_KEYS)
    role = role_of(speaker)
    if role is None:
        what = f"message {number} is by {brief(speaker)}, which is neither system nor user nor assistant nor tool"
        raise unusable("unknown role", what)
    where = f"message {number} ({role})"
    try:
        learn = _learn(item, role)
        if role == "assistant":
            return _answer(item, is_call=_speaker(speaker) in _CALLERS)._replace(learn=learn)
        for key in (*REASONING_KEYS, *CALL_KEYS):
            if item.get(key):
                raise unusable(f"{key} of a {role} message", f"has {key}, which only an answer can have")
        content = _text(item, f"{role} message")
        if role != "tool":
            return Message(role, content, learn=learn)
        name, call_id = (text_of(item.get(key) or "", key) for key in ANSWERED_CALL_KEYS)
        return Message(role, content, name=name, call_id=call_id, learn=learn)
    except UnusableError as error:
        raise UnusableError([_placed(fault, where) for fault in error.faults]) from None


def _placed(fault: MessageFault, where: str) -> MessageFault:
    return MessageFault(fault.reason, f"{where}{': ' if fault.what.startswith('the ') else ' '}{fault.what}")


def _answer(item: Fields, *, is_call: bool) -> Message:
    """The assistant's message. Its text may be missing if it calls a tool."""
    if is_call:
        return Message("assistant", "", tool_calls=text_calls_of(_text(item, "tool call")))
    calls: tuple[ToolCall, ...] = ()
    for key in CALL_KEYS:
        calls += tool_calls_of(item.get(key), key)
    has_text = _first(item, TEXT_KEYS) is not None
    content = _text(item, "answer") if has_text or not calls else ""
    thoughts = {text_of(item[key], key).strip("\n") for key in REASONING_KEYS if item.get(key)}
    thoughts |= set(_thinking_parts(_first(item, TEXT_KEYS)))
    found = _THOUGHT.match(content)
    if found and found[1].strip():
        thoughts.add(found[1].strip("\n"))
        content = content[found.end() :]
    if len(thoughts) > 1:
        raise unusable(
            "reasoning twice", f"has two different texts of reasoning, {listed(map(brief, sorted(thoughts)))}"
        )
    return Message("assistant", content, "".join(thoughts), calls)


def _text(item: Fields, noun: str) -> str:
    """The text of a message, of which parts of text are joined."""
    content = _first(item, TEXT_KEYS)
    if content is None:
        raise unusable(f"null {noun}", "has no text: its content is null or missing")
    if isinstance(content, list):
        return "".join(_part_text(part) for part in content)
    if not isinstance(content, str):
        raise unusable("content is no text", f"is no text, got {brief(content)}")
    return content


def _part_text(part: Json) -> str:
    """The text of one part of a content; empty for a part of reasoning."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise unusable("content is no text", f"has a part that is no text, got {brief(part)}")
    kind = part.get("type")
    if kind in ("thinking", "reasoning"):
        return ""
    if isinstance(part.get("text"), str) and kind in (None, "text", "input_text", "output_text"):
        return str(part["text"])
    name = kind if isinstance(kind, str) else listed(key for key, value in part.items() if value is not None)
    raise unusable(
        f"content part {name[:40]}", f"has a content part of type {brief(name)}; only text can be learnt from"
    )


def _thinking_parts(content: Json) -> list[str]:
    """The text of the parts of reasoning, as one text if there are any."""
    parts = content if isinstance(content, list) else []
    found = [part for part in parts if isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")]
    texts = [_thinking_text(_first(part, ("thinking", "reasoning", "text"))) for part in found]
    return ["".join(texts).strip("\n")] if any(text.strip() for text in texts) else []


def _thinking_text(value: Json) -> str:
    return "".join(map(_part_text, value)) if isinstance(value, list) else text_of(value, "reasoning")


def _learn(item: Fields, role: Role) -> bool:
    """Whether the message is to be learnt from, by the marks of its object."""
    said = {key: _flag(item[key], key) for key in (*LEARN_KEYS, *MASK_KEYS) if item.get(key) is not None}
    learnt = {key: value != (key in MASK_KEYS) for key, value in said.items()}
    if len(set(learnt.values())) > 1:
        raise unusable("marks contradict", f"has marks that contradict each other: {listed(learnt)}")
    asked = next((key for key in LEARN_KEYS[1:] if learnt.get(key)), None)
    if asked is not None and role != "assistant":
        # A weight of 1 is what every message has; axolotl's `train: true` asks for this one.
        raise unusable(f"{asked} of a {role} message", f"has {asked}: true, but only answers are learnt")
    return all(learnt.values())


def _flag(value: Json, key: str) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "1", "1.0"):
        return True
    if text in ("false", "0", "0.0"):
        return False
    allowed = "0 and 1" if key == "weight" else "true and false"
    raise unusable(
        f"{key} is not {allowed.replace('and', 'or')}", f"has {key} {brief(value)}; {allowed} can be honoured"
    )


def _first(item: Fields, keys: Sequence[str]) -> Json:
    """The value of the first of the keys that is there and not null."""
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _speaker(value: Json) -> str:
    return _HEADER.sub("", value).strip().lower() if isinstance(value, str) else ""
