"""Dialogues from the formats they are published in: messages, ShareGPT, Alpaca, Glaive, prompt (and completion)."""

import json
import re

from zephyr.records.columns import peek
from zephyr.records.fields import Fields, Json, brief, filled_text, first_of, listed, optional_text, text_of, unusable
from zephyr.records.message_fields import TOOL_LIST_KEYS, messages_of
from zephyr.records.messages import (
    GIVEN_VARIABLES,
    VARIABLES_KEY,
    Message,
    Messages,
    Role,
    TemplateInputs,
    has_tools,
)
from zephyr.records.tool_fields import json_of, objects_of, tools_of, with_tagged_calls

PROMPT_NAMES = ("prompt", "instruction", "question")
COMPLETION_NAMES = ("completion", "response", "answer", "output")
ALPACA_ANSWER_NAMES = ("output", "response", "completion")
# What a prompt is about, beside the request itself: Alpaca's input, the context of Dolly and of SQuAD.
GIVEN_NAMES = ("context", "input")
# The system message, as in OpenOrca and its like.
SYSTEM_NAMES = ("system", "system_prompt", "system_message")
# Glaive's columns: the tools behind a sentence of the system message, and the turns in one text.
GLAIVE_NAMES = ("system", "chat")
_GLAIVE_TURN = re.compile(r"(?:^|\n\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_GLAIVE_ROLES: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_GLAIVE_TOOLS = re.compile(r",? with access to the following functions\. Use them if required\s*-?\s*(?=\{)")
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def from_messages(fields: Fields) -> Messages:
    """The dialogue of `messages`."""
    return with_system(fields, tool_messages_of(fields, fields.get("messages"), "messages"))


def from_sharegpt(fields: Fields) -> Messages:
    """The dialogue of `conversations`, with the various names of speakers in such data."""
    return with_system(fields, tool_messages_of(fields, fields.get("conversations"), "conversations"))


def tool_messages_of(fields: Fields, value: Json, name: str) -> Messages:
    """The messages of a field's value; where the row has tools, calls that are written as text are read as calls."""
    messages = messages_of(value, name)
    return with_tagged_calls(messages) if has_tools(messages) or declared_tools(fields) else messages


def template_inputs(fields: Fields) -> TemplateInputs:
    """What a row gives to its chat template beside messages: its tools, and the object of `chat_template_kwargs`.

    Raises UnusableError for other values.
    """
    value = fields.get(VARIABLES_KEY)
    if isinstance(value, str):
        value = json_of(value, VARIABLES_KEY) if value.strip() else None
    if value is not None and not isinstance(value, dict):
        raise unusable(f"{VARIABLES_KEY} is no object", f"has {VARIABLES_KEY} that is no object, got {brief(value)}")
    taken = sorted(GIVEN_VARIABLES & set(value or ()))
    if taken:
        raise unusable(f"{VARIABLES_KEY} sets {taken[0]}", f"has {listed(taken)} in {VARIABLES_KEY}, not in a column")
    given = {name: one for name, one in (value or {}).items() if one not in (None, "", [], {})}
    return TemplateInputs(declared_tools(fields), json.dumps(given, ensure_ascii=False) if given else "")


def declared_tools(fields: Fields) -> str:
    """The tools that a row declares, in a field or in its first message: the JSON text of a list, or empty.

    Raises UnusableError for other values, and for two different lists.
    """
    holders: list[Fields] = [fields]
    for name in ("messages", "conversations", "prompt", "chosen"):
        value = peek(fields, name)
        first = value[0] if isinstance(value, list) and value else None
        holders += [first] if isinstance(first, dict) else []
    found = {tools_of(holder.get(key), key) for holder in holders for key in TOOL_LIST_KEYS} - {""}
    if len(found) > 1:
        raise unusable("two lists of tools", "declares two different lists of tools")
    return "".join(found)


def from_alpaca(fields: Fields) -> Messages:
    """The dialogue of `instruction`, `input` and `output` (or `response`), after that of `history`."""
    answer = text_of(fields[first_of(fields, ALPACA_ANSWER_NAMES)], "answer")
    return (*alpaca_prompt(fields), Message("assistant", answer))


def alpaca_prompt(fields: Fields) -> Messages:
    """The dialogue of `history` and `instruction`; a non-empty `context` or `input` follows after an empty line."""
    text = _with_given(fields, text_of(fields.get("instruction"), "instruction"))
    return with_system(fields, (*_history(fields.get("history")), Message("user", text)))


def _with_given(fields: Fields, request: str) -> str:
    """The request, then what it is about, each after an empty line; what the request already holds is left out."""
    given = (optional_text(fields, name) for name in GIVEN_NAMES)
    return "\n\n".join(part for part in [request, *(one for one in given if one not in request)] if part.strip())


def from_prompt_completion(fields: Fields) -> Messages:
    """The dialogue of `prompt` and `completion`, each a text or messages."""
    prompt = from_prompt(fields)
    completion = fields[first_of(fields, COMPLETION_NAMES)]
    if isinstance(completion, list | dict):
        return (*prompt, *tool_messages_of(fields, completion, "completion"))
    return (*prompt, Message("assistant", text_of(completion, "answer")))


def from_prompt(fields: Fields) -> Messages:
    """The dialogue of `prompt`, `instruction` or `question`: a text, with its `context` and `input`; or messages."""
    name = first_of(fields, PROMPT_NAMES)
    if name == "instruction":
        return alpaca_prompt(fields)
    value = fields[name]
    if isinstance(value, list | dict):
        return with_system(fields, messages_of(value, name))
    return with_system(fields, (Message("user", _with_given(fields, filled_text(value, name))),))


def from_hh_text(text: str) -> Messages:
    """The dialogue of a text in the format of HH-RLHF, with turns after "Human:" and "Assistant:".

    Raises UnusableError for any other text. Source: Anthropic/hh-rlhf on the hub, arXiv 2204.05862.
    """
    before, *turns = _HH_TURN.split(text)
    if before.strip() or not turns:
        raise unusable("no HH-RLHF text", f"the text does not begin with 'Human:', got {brief(text)}")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(Message("user" if name == "Human" else "assistant", content.strip()) for name, content in pairs)


def from_glaive(fields: Fields) -> dict[str, Json]:
    """The `messages` and `tools` of a row that has all turns in one text. Raises UnusableError for any other text.

    Source: glaiveai/glaive-function-calling-v2 on the hub.
    """
    system = text_of(fields.get("system") or "", "system").strip().removeprefix("SYSTEM:").strip()
    said, *listed_tools = _GLAIVE_TOOLS.split(system, maxsplit=1)
    chat = filled_text(fields.get("chat"), "chat")
    before, *turns = _GLAIVE_TURN.split(chat)
    if before.strip() or not turns:
        raise unusable("no dialogue of Glaive", f"the text of chat does not begin with 'USER:', got {brief(chat)}")
    messages: list[Json] = [{"role": "system", "content": said}] if said else []
    for speaker, text in zip(turns[::2], turns[1::2], strict=True):
        messages.append({"role": _GLAIVE_ROLES[speaker], "content": text.replace("<|endoftext|>", "").strip()})
    return {"messages": messages, "tools": objects_of("".join(listed_tools), "system"), "source": fields.get("source")}


def with_system(fields: Fields, messages: Messages) -> Messages:
    """The messages, after a system message with the text of the field `system` or `system_prompt` if it is not empty.

    A dialogue that begins with that system message keeps it once.
    """
    texts = dict.fromkeys(optional_text(fields, name) for name in SYSTEM_NAMES)
    systems = tuple(Message("system", text) for text in texts if text.strip())
    return messages if systems == messages[:1] else (*systems, *messages)


def _history(value: Json) -> Messages:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise unusable("history is no list", "the history is no list of turns")
    messages: list[Message] = []
    for turn in value:
        if not isinstance(turn, list) or len(turn) != 2:
            raise unusable("history is no list of turns", "a turn of the history is no pair of question and answer")
        messages.append(Message("user", text_of(turn[0], "question of the history")))
        messages.append(Message("assistant", text_of(turn[1], "answer of the history")))
    return tuple(messages)
