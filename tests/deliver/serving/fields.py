"""Every field of the OpenAI client's chat and text completions against a server: honoured, or refused by its name.

`python -m tests.deliver.serving.fields > docs/serving-fields.md` writes the table of what was found.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import openai

from tests.deliver.serving.small_server import NAME, WINDOW, listening, open_application, open_model

USER = [{"role": "user", "content": "a"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
# How a call is made, and no field of its body.
OF_THE_CALL = {"extra_body", "extra_headers", "extra_query", "self", "timeout"}
HEAD = """# Fields of the served API

What `zephyr serve` does with every field of the OpenAI client's calls, tried with the client itself (openai {version})
against a server. Written by `python -m tests.deliver.serving.fields`; a test compares. `null` counts as absent
everywhere, and a field that is not listed is refused by its name, so no field is ever taken and ignored. Of these tries
{honoured} were honoured and {refused} refused.
"""


class Try(NamedTuple):
    """A field, what it is set to, and how an answer shows that it was honoured; None: it must be refused."""

    field: str
    value: object
    shows: Callable[[object, object], bool] | None
    words: str = ""
    beside: dict[str, object] = {}  # noqa: RUF012 - never changed


def text(answer):
    return answer.choices[0].message.content


def same(answer, plain):
    return text(answer) == text(plain)


def other(answer, plain):
    return text(answer) != text(plain)


def same_usage(answer, plain):
    return answer.usage == plain.usage


def two_told(answer, _):
    return len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


CHAT = [
    Try("messages", USER, same, "system, developer, user and assistant; text, or parts of text"),
    Try("messages", [{"role": "user", "content": [{"type": "text", "text": "a"}]}], same, "parts of text are joined"),
    Try("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], None),
    Try("messages", [*USER, {"role": "assistant", "content": "b"}], None),
    Try("messages", [{"role": "tool", "content": "b", "tool_call_id": "c"}], None),
    Try("messages", [{"role": "user", "content": "b" * 400}], None),
    Try("model", NAME, lambda answer, _: answer.model == NAME, "the name of the folder or the hub id"),
    Try("model", "gpt-4o", None),
    Try("audio", {"format": "wav", "voice": "ash"}, None),
    Try("frequency_penalty", -2.0, other, "-2 to 2, over what is written so far"),
    Try("frequency_penalty", 3.0, None),
    Try("function_call", "none", same, "asks for what happens anyway"),
    Try("function_call", {"name": "add"}, None),
    Try("functions", [TOOL["function"]], None),
    Try("logit_bias", {"40": 100}, lambda answer, _: len(set(text(answer))) == 1, "-100 to 100 by token id"),
    Try("logit_bias", {"99999": 1}, None),
    Try("logprobs", True, lambda answer, _: len(answer.choices[0].logprobs.content) == 8, "of the model itself"),
    Try("max_completion_tokens", 3, lambda answer, _: answer.usage.completion_tokens == 3, "up to the window"),
    Try("max_tokens", 3, lambda answer, _: answer.usage.completion_tokens == 3, "up to the window"),
    Try("max_tokens", WINDOW, None),
    Try("metadata", {"a": "b"}, None),
    Try("modalities", ["text"], same, "asks for what happens anyway"),
    Try("modalities", ["text", "audio"], None),
    Try("moderation", {"model": "m"}, None),
    Try("n", 3, lambda answer, _: len(answer.choices) == 3, "1 to 16, each with draws of its own"),
    Try("n", 17, None),
    Try("parallel_tool_calls", False, same, "asks for what happens anyway"),
    Try("prediction", {"type": "content", "content": "a"}, None),
    Try("presence_penalty", -2.0, lambda answer, _: bool(text(answer)), "-2 to 2, over what is written so far"),
    Try("prompt_cache_key", "a", None),
    Try("prompt_cache_options", {"mode": "auto"}, None),
    Try("prompt_cache_retention", "24h", None),
    Try("reasoning_effort", "none", same, "asks for what happens anyway"),
    Try("reasoning_effort", "high", None),
    Try("response_format", {"type": "text"}, same, "asks for what happens anyway"),
    Try("response_format", {"type": "json_object"}, lambda answer, _: text(answer)[0] == "{", "by the grammar of JSON"),
    Try(
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        lambda answer, _: json.loads(text(answer))["a"] in (1, 2),
        "by a grammar of the schema",
    ),
    Try("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}, None),
    Try("safety_identifier", "a", same, "names a person; no answer depends on it"),
    Try("seed", 7, lambda answer, plain: text(answer) == text(plain), "repeats the draws", {"temperature": 1.0}),
    Try("service_tier", "auto", same, "asks for what happens anyway"),
    Try("service_tier", "flex", None),
    Try("stop", ["never said", "\n\n\n"], same, "up to 4 texts; the answer ends before the first"),
    Try("stop", "", None),
    Try("store", False, same, "asks for what happens anyway"),
    Try("store", True, None),
    Try("stream", True, lambda answer, plain: text(answer) == text(plain), "the same text, then `data: [DONE]`"),
    Try(
        "stream_options",
        {"include_usage": True},
        same_usage,
        "a last chunk with the usage",
        {"stream": True},
    ),
    Try("stream_options", {"include_usage": True}, None),
    Try("temperature", 2.0, other, "0 to 2; 0: the likeliest token"),
    Try("temperature", 2.1, None),
    Try("tool_choice", "none", same, "asks for what happens anyway"),
    Try("tool_choice", "required", None),
    Try("tools", [TOOL], None),
    Try("top_logprobs", 2, two_told, "0 to 20", {"logprobs": True}),
    Try("top_logprobs", 2, None),
    Try("top_p", 0.0, same, "0 to 1", {"temperature": 1.0}),
    Try("top_p", 1.5, None),
    Try("user", "a", same, "names a person; no answer depends on it"),
    Try("verbosity", "medium", same, "asks for what happens anyway"),
    Try("verbosity", "low", None),
    Try("web_search_options", {}, None),
]  # fmt: skip


def continued(answer, plain):
    return answer.choices[0].text == plain.choices[0].text


COMPLETIONS = [
    Try("model", NAME, lambda answer, _: answer.model == NAME, "the name of the folder or the hub id"),
    Try("prompt", ["a", "b"], lambda answer, _: len(answer.choices) == 2, "a text, texts, ids, or lists of ids"),
    Try("prompt", [99999], None),
    Try("best_of", 1, continued, "asks for what happens anyway"),
    Try("best_of", 2, None),
    Try("echo", False, continued, "asks for what happens anyway"),
    Try("echo", True, None),
    Try("frequency_penalty", -2.0, lambda answer, plain: not continued(answer, plain), "as in a chat"),
    Try("logit_bias", {"40": 100}, lambda answer, _: len(set(answer.choices[0].text)) == 1, "as in a chat"),
    Try("logprobs", 2, None),
    Try("max_tokens", 3, lambda answer, _: answer.usage.completion_tokens == 3, "16 where absent"),
    Try("n", 2, lambda answer, _: len(answer.choices) == 2, "of each prompt"),
    Try("presence_penalty", -2.0, lambda answer, _: bool(answer.choices[0].text), "as in a chat"),
    Try("seed", 7, continued, "repeats the draws", {"temperature": 1.0}),
    Try("stop", ["never said"], continued, "as in a chat"),
    Try("stream", True, lambda answer, plain: answer.choices[0].text == plain.choices[0].text, "the same text"),
    Try("stream_options", {"include_usage": True}, same_usage, "as in a chat", {"stream": True}),
    Try("suffix", "a", None),
    Try("temperature", 2.0, lambda answer, plain: not continued(answer, plain), "as in a chat"),
    Try("top_p", 0.0, continued, "as in a chat", {"temperature": 1.0}),
    Try("user", "a", continued, "names a person; no answer depends on it"),
]  # fmt: skip


def fields_of(create) -> set[str]:
    """The fields that a method of the client sends."""
    return set(inspect.signature(create).parameters) - OF_THE_CALL


def whole(answer):
    """An answer as it would be without a stream."""
    if not isinstance(answer, openai.Stream):
        return answer
    chunks = list(answer)
    found = chunks[0].model_copy(deep=True)
    pieces = [one for chunk in chunks for one in chunk.choices]
    if hasattr(found.choices[0], "delta"):
        joined = "".join(one.delta.content or "" for one in pieces)
        return openai.types.chat.ChatCompletion.model_construct(
            usage=chunks[-1].usage,
            choices=[openai.types.chat.chat_completion.Choice.model_construct(message=_Message(joined))],
        )
    found.choices[0].text = "".join(one.text for one in pieces)
    found.usage = chunks[-1].usage
    return found


class _Message(NamedTuple):
    content: str


def outcome(create, usual: dict[str, object], one: Try) -> tuple[bool, str]:
    """Whether the try was honoured, and in which words; or the refusal's. Raises AssertionError if neither."""
    asked = {**usual, **one.beside}
    try:
        answer = whole(create(**{**asked, one.field: one.value}))
    except openai.APIStatusError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert 400 <= refused.status_code < 500, refused
        assert one.shows is None, f"{one.field}={one.value!r} was refused: {refused.message}"
        assert refused.body["param"].split("[")[0].split(".")[0] == one.field, refused.body
        return False, f"{refused.status_code}: {refused.body['message']}"
    assert one.shows is not None, f"{one.field}={one.value!r} was taken"
    plain = {"temperature": 1.0, "seed": 7} if one.field == "seed" else {}
    asked.pop("stream", None)
    like = create(**{**asked, **plain}) if one.field != "top_p" else create(**usual)
    assert one.shows(answer, like), f"{one.field}={one.value!r} changed nothing it should, or something it should not"
    return True, one.words


def rows(client: openai.OpenAI) -> Iterator[tuple[str, str, object, bool, str]]:
    """The call, field and value of every try, whether it was honoured, and the words."""
    chat = {"model": NAME, "messages": USER, "temperature": 0, "max_tokens": 8}
    text_completion = {"model": NAME, "prompt": "a", "temperature": 0, "max_tokens": 8}
    for name, create, usual, tries in (
        ("chat.completions", client.chat.completions.create, chat, CHAT),
        ("completions", client.completions.create, text_completion, COMPLETIONS),
    ):
        assert fields_of(create) == {one.field for one in tries}
        for one in tries:
            needed = usual
            if one.field in ("max_completion_tokens", "response_format"):
                needed = {key: value for key, value in usual.items() if key != "max_tokens"} | {"logit_bias": None}
            if one.field == "response_format":
                needed = needed | {"max_completion_tokens": 40}
            yield name, one.field, one.value, *outcome(create, needed, one)


def table(found) -> str:
    """The page of all tries."""
    found = list(found)
    honoured = sum(was_honoured for *_, was_honoured, _ in found)
    lines = [HEAD.format(version=openai.__version__.split(".")[0], honoured=honoured, refused=len(found) - honoured)]
    for call in ("chat.completions", "completions"):
        lines += [f"## {call}", "", "| field | value | honoured | as told |", "|---|---|---|---|"]
        for name, field, value, was_honoured, words in found:
            if name == call:
                shown = json.dumps(value)
                shown = shown if len(shown) <= 70 else f"{shown[:67]}..."
                cells = (f"`{field}`", f"`{shown}`", "yes" if was_honoured else "no", words.replace("|", "\\|"))
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def tried() -> str:
    """The page, of a server that is started for it."""
    model = open_model()
    try:
        with listening(open_application(model)) as address:
            return table(rows(openai.OpenAI(base_url=address, api_key="none", max_retries=0)))
    finally:
        model.writer.close()


if __name__ == "__main__":
    sys.stdout.write(tried())
