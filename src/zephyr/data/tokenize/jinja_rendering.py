"""The chat template of a tokenizer or a file, rendered with the names that transformers gives it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from zephyr.data.tokenize.jinja_process import LimitError, TemplateFaultError, sandbox_process
from zephyr.data.tokenize.plain_text import TextTokenizer
from zephyr.data.tokenize.templates import think_block
from zephyr.errors import DataError, ModelError, RecipeError
from zephyr.recipe.model_section import NO_VALUES, TemplateText, TemplateValue
from zephyr.records.fields import listed
from zephyr.records.messages import GIVEN_VARIABLES, NO_INPUTS, Message, TemplateInputs, ToolCall

WHERE = "the model's own chat template"
OTHER_TEMPLATE = "set chat_template.name to zephyr, chatml or llama3, or to file with a template of your own"
MOST_TEMPLATE_CHARACTERS = 200_000

# How reasoning is given to a template: in keys of its own; in the text, in tags; or not at all, where the generation
# prompt opens the tag that the answer goes on in (DeepSeek-R1's kind).
ReasoningStyle = Literal["keys", "text", "opened"]
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_ID_CHARACTERS = 9


class JinjaTemplate:
    """Renders messages and tools as `apply_chat_template` does, with the tokenizer's template or that of `text`.

    `defaults`: the values of variables that a row does not give; the source says them too. Raises ModelError for a
    template that is none, RecipeError for a default that it does not use.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        text: TemplateText | None = None,
        defaults: Mapping[str, TemplateValue] = NO_VALUES,
    ) -> None:
        #: The template in messages.
        self.where = WHERE if text is None else text.where
        found = self._source_of(tokenizer, text)
        self._special = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        self._variables = self._variables_of(found)
        unused = self.unused(defaults)
        if unused:
            what = f"{self.where} does not use {listed(unused)}"
            raise RecipeError("chat_template.variables", what, f"it uses {listed(sorted(self._variables))}")
        #: The template's text, which sets the defaults where the caller does not.
        self.source = "".join(_default(name, value) for name, value in defaults.items()) + found

    def render(
        self,
        messages: Sequence[Message],
        inputs: TemplateInputs = NO_INPUTS,
        *,
        generation: bool = False,
        style: ReasoningStyle = "keys",
    ) -> str:
        """The text of the messages. Raises DataError where the template refuses them, ModelError beyond its limits."""
        values = {
            "messages": [_fields(message, style) for message in messages],
            "tools": json.loads(inputs.tools) if inputs.tools else None,
            "documents": None,
            "add_generation_prompt": generation,
            **variables_of(inputs),
        }
        try:
            return sandbox_process().render(self.source, self._special | values)
        except TemplateFaultError as error:
            raise self.fault(str(error)) from error
        except LimitError as error:
            raise self.refused(str(error)) from error

    def unused(self, names: Iterable[str]) -> list[str]:
        """Those of the names of variables that the template does not read."""
        return [name for name in names if name not in self._variables]

    def refused(self, what: str) -> ModelError:
        """The error for a template that cannot be trained on."""
        return ModelError(self.where, what, OTHER_TEMPLATE)

    def fault(self, what: str) -> DataError:
        """The error for messages that this template cannot render."""
        return DataError(self.where, what, OTHER_TEMPLATE)

    def _source_of(self, tokenizer: TextTokenizer, text: TemplateText | None) -> str:
        """The template's text: of the file, or the tokenizer's, the one named default where it has several."""
        found = tokenizer.chat_template if text is None else text.text
        source = found.get("default") if isinstance(found, Mapping) else found
        if not isinstance(source, str):
            raise self.refused("is missing: its tokenizer has none")
        if len(source) > MOST_TEMPLATE_CHARACTERS:
            raise self.refused(f"is longer than {MOST_TEMPLATE_CHARACTERS:,} characters")
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        missing = [control for control in (text.controls if text else ()) if control in source and control not in added]
        if missing:
            raise ModelError(
                self.where,
                f"writes {', '.join(map(repr, missing))}, which the tokenizer of this model does not have",
                "add these tokens to it as special tokens, or choose another chat template",
            )
        return source

    def _variables_of(self, source: str) -> frozenset[str]:
        """The names that the template reads and does not set itself, without those that every template is given."""
        try:
            found = sandbox_process().variables(source)
        except (TemplateFaultError, LimitError) as error:
            raise self.refused(str(error)) from error
        return frozenset(found) - {*GIVEN_VARIABLES, *self._special}


def variables_of(inputs: TemplateInputs) -> dict[str, object]:
    """The variables that a row gives to its template, by name."""
    return dict(json.loads(inputs.variables)) if inputs.variables else {}


def _default(name: str, value: TemplateValue) -> str:
    """The statement that sets a variable where the caller does not."""
    return f"{{% if {name} is not defined %}}{{% set {name} = {json.dumps(value)} %}}{{% endif %}}"


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with call ids of nine letters and digits, which Mistral's templates insist on.

    Where ids are missing, the answers of tools take those of the calls in their order.
    """
    waiting: list[str] = []
    changed: list[Message] = []
    for number, message in enumerate(messages):
        if message.tool_calls:
            calls = [
                call._replace(id=_short(call.id or f"{number} {place}"))
                for place, call in enumerate(message.tool_calls)
            ]
            waiting = [call.id for call in calls]
            changed.append(message._replace(tool_calls=tuple(calls)))
        elif message.role == "tool":
            own = _short(message.call_id) if message.call_id else waiting[0] if waiting else _short(str(number))
            waiting = [one for one in waiting if one != own]
            changed.append(message._replace(call_id=own))
        else:
            changed.append(message)
    return changed


def _short(name: str) -> str:
    if len(name) == _ID_CHARACTERS and name.isalnum() and name.isascii():
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_CHARACTERS]


def _fields(message: Message, style: ReasoningStyle) -> dict[str, object]:
    """The message as templates expect it, with the keys of what it has alone: some test for a key."""
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.reasoning and style == "keys":
        fields |= dict.fromkeys(_REASONING_KEYS, message.reasoning)
    elif message.reasoning and style == "text":
        fields["content"] = f"{think_block(message.reasoning)}{message.content}"
    if message.tool_calls:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.name:
        fields["name"] = message.name
    if message.call_id:
        fields["tool_call_id"] = message.call_id
    return fields


def _call(call: ToolCall) -> dict[str, object]:
    called: dict[str, object] = {"type": "function", "function": {"name": call.name, "arguments": call.parsed()}}
    return {"id": call.id, **called} if call.id else called


def json_texts(value: object) -> Iterator[str]:
    """All texts inside of a JSON value, its keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield from (*json_texts(key), *json_texts(held))
    elif isinstance(value, list):
        for held in value:
            yield from json_texts(held)
