"""The bodies of requests as types: what OpenAI's API knows and is honoured here, with its bounds, and nothing else.

A field that is null is absent. One that cannot be honoured is refused by its name, unless its value asks for nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, field_validator

from zephyr.records.fields import Json, brief, printable

MAX_CHOICES = 16
MAX_PROMPTS = 64
MAX_MESSAGES = 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1000
MAX_BIASES = 1024
MOST_TOLD = 5
# An escape of half a character, which may stand beside its other half.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_LABEL = Annotated[str, StringConstraints(max_length=512)]
_STOP = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS)]
_TOKEN = Annotated[int, Field(ge=0)]


class RefusedError(Exception):
    """A refused request: the status, the reason, and the field and the code that clients can read."""

    def __init__(self, status: int, reason: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.param = param
        self.code = code


class _Refused(NamedTuple):
    """Why a field is not honoured, and the values of it that ask for nothing."""

    why: str
    neutral: tuple[Json, ...] = ()


_NO_TOOLS = "tools are not called"
_NO_CACHE = "nothing is cached between requests"
_TEXT_ONLY = "only text is read and written"
#: OpenAI's fields of a chat completion that are not honoured.
REFUSED_IN_CHAT: dict[str, _Refused] = {
    "audio": _Refused(_TEXT_ONLY),
    "function_call": _Refused(_NO_TOOLS, ("none", "auto")),
    "functions": _Refused(_NO_TOOLS, ([],)),
    "metadata": _Refused("nothing is stored", ({},)),
    "modalities": _Refused(_TEXT_ONLY, (["text"],)),
    "moderation": _Refused("nothing is moderated"),
    "parallel_tool_calls": _Refused(_NO_TOOLS, (True, False)),
    "prediction": _Refused("predicted text is not used"),
    "prompt_cache_key": _Refused(_NO_CACHE),
    "prompt_cache_options": _Refused(_NO_CACHE),
    "prompt_cache_retention": _Refused(_NO_CACHE),
    "reasoning_effort": _Refused("a model's effort cannot be set", ("none",)),
    "service_tier": _Refused("there is one tier", ("auto", "default")),
    "store": _Refused("nothing is stored", (False,)),
    "tool_choice": _Refused(_NO_TOOLS, ("none", "auto")),
    "tools": _Refused(_NO_TOOLS, ([],)),
    "verbosity": _Refused("a model's verbosity cannot be set", ("medium",)),
    "web_search_options": _Refused("nothing is searched"),
}
#: The same of a completion.
REFUSED_IN_COMPLETIONS: dict[str, _Refused] = {
    "best_of": _Refused("every completion is returned; see n", (1,)),
    "echo": _Refused("the prompt is not repeated", (False,)),
    "logprobs": _Refused("/v1/chat/completions tells them"),
    "suffix": _Refused("text is only continued", ("",)),
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Body):
    """What a stream holds besides the text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextContent(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """A message. Parts of text are joined by line breaks, as llama.cpp's and vLLM's servers do."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: object) -> object:
        if not isinstance(content, list):
            return content
        if not content:
            raise ValueError("has no parts")
        texts = []
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text":
                raise ValueError(f"part {number} has type {brief(kind)}; only parts of type 'text' are taken")
            texts.append(TextContent.model_validate(part).text)
        return "\n".join(texts)


class JsonSchema(_Body):
    """A schema that an answer must meet. Its name and description are for people, and it is always strict."""

    name: _LABEL
    explained: str | None = Field(None, alias="description")
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str | None:
        """The JSON schema of the answer as text; None for any text."""
        if self.type == "text":
            return None
        return json.dumps({"type": "object"} if self.json_schema is None else self.json_schema.schema_)


class SampledBody(_Body):
    """What chat completions and completions share; None: the model's own default."""

    model: _LABEL | None = None
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(default={}, max_length=MAX_BIASES)
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: tuple[_STOP, ...] = Field((), max_length=MAX_STOPS)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    # Who the answer is for changes nothing in it.
    user: _LABEL | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop

    @field_validator("logit_bias")
    @classmethod
    def _named_by_tokens(cls, biases: dict[str, float]) -> dict[str, float]:
        wrong = [token for token in biases if not (token.isascii() and token.isdecimal() and len(token) < 19)]
        if wrong:
            raise ValueError(f"its keys are ids of tokens, got {brief(wrong[0])}")
        return biases


class ChatBody(SampledBody):
    """The body of a chat completion."""

    messages: list[ChatMessage] = Field(max_length=MAX_MESSAGES)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: ResponseFormat = ResponseFormat(type="text")
    safety_identifier: _LABEL | None = None


class CompletionBody(SampledBody):
    """The body of a completion; each prompt is a text or ids of tokens."""

    prompt: str | list[_TOKEN] | list[str] | list[list[_TOKEN]]

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [one for one in self.prompt if isinstance(one, int)]
        return [ids] if ids else [one for one in self.prompt if not isinstance(one, int)]


BodyType = TypeVar("BodyType", bound=SampledBody)


def read_body(kind: type[BodyType], body: bytes, refused: Mapping[str, _Refused]) -> BodyType:
    """The typed body of a request. Raises RefusedError with all that is wrong with it."""
    fields = {name: value for name, value in _json_object(body).items() if value is not None}
    for name, (why, neutral) in refused.items():
        # By their JSON texts: true is not 1.
        if name in fields and json.dumps(fields.pop(name)) not in map(json.dumps, neutral):
            raise RefusedError(400, f"{name} is not supported: {why}", param=name, code="unsupported_parameter")
    messages = fields.get("messages")
    if isinstance(messages, list):
        fields["messages"] = [_without_nulls(message) for message in messages]
    try:
        return kind.model_validate({name: _without_nulls(value) for name, value in fields.items()})
    except ValidationError as error:
        faults = [_fault(found["loc"], found["type"], found["msg"]) for found in error.errors(include_input=False)]
        param, first = faults[0]
        code = "unsupported_parameter" if first.endswith(_UNKNOWN) else "invalid_value"
        raise RefusedError(400, _told([what for _, what in faults]), param=param, code=code) from error


_UNKNOWN = "is not a field that is supported here"


def _json_object(body: bytes) -> dict[str, Json]:
    try:
        # Read as bytes, json would let pass what is no UTF-8.
        found = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON ({printable(str(error))[:200]})", code="invalid_json") from error
    if not isinstance(found, dict):
        raise RefusedError(400, "the body is not a JSON object", code="invalid_json")
    if _HALF.search(body):
        for place in _halves(found, ()):
            name = _name(place)
            raise RefusedError(400, f"{name}: has half of a character in it", param=name, code="invalid_value")
    return found


def _halves(value: Json, place: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The places of texts and keys that no UTF-8 can hold."""
    steps: Iterable[tuple[str | int, Json]] = ()
    if isinstance(value, dict):
        yield from (place for key in value if _is_half(key))
        steps = value.items()
    elif isinstance(value, list):
        steps = enumerate(value)
    elif isinstance(value, str) and _is_half(value):
        yield place
    for step, held in steps:
        yield from _halves(held, (*place, step))


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _without_nulls(value: Json) -> Json:
    return {name: held for name, held in value.items() if held is not None} if isinstance(value, dict) else value


def _name(place: Sequence[str | int]) -> str:
    """A field's name as in JavaScript."""
    name = ""
    for step in place:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return printable(name)[:200] or "the body"


def _fault(place: Sequence[str | int], kind: str, message: str) -> tuple[str, str]:
    """The field's name, and what is wrong with it."""
    name = _name(place)
    if kind == "extra_forbidden":
        return name, f"{name} {_UNKNOWN}"
    if kind == "missing":
        return name, f"{name} is missing"
    what = message.removeprefix("Value error, ").replace("Input should", "should")
    return name, f"{name}: {printable(what)[:300]}"


def _told(faults: Sequence[str]) -> str:
    more = len(faults) - MOST_TOLD
    return "; ".join(faults[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
