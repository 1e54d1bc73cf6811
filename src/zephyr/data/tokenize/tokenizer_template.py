"""The chat template of a tokenizer or a file, split into pieces by rendering placeholders.

Every message is rendered as a placeholder of one character. The assistant's part is found by rendering the dialogue up
to each answer, with and without it. A template whose renderings do not continue each other (it rewrites earlier
answers) cannot be trained on as it is served, and is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zephyr.data.tokenize.plain_text import AddedToken, TextTokenizer
from zephyr.data.tokenize.templates import ASSISTANT, Piece, control_pattern, split_controls, with_empty_system
from zephyr.errors import DataError, ModelError
from zephyr.recipe.model_section import TemplateText
from zephyr.records.messages import ROLES, Message

WHERE = "the model's own chat template"
MOST_TEMPLATE_CHARACTERS = 200_000
MOST_RENDERED_CHARACTERS = 50_000_000
_OTHER_TEMPLATE = "set chat_template.name to zephyr, chatml or llama3, or to file with a template of your own"
_PROBE = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
_NOTHING = Piece("")

# A private-use plane of Unicode: one character for one message.
_FIRST_PLACEHOLDER = 0xF0000
_PLACEHOLDER = re.compile("([\U000f0000-\U000ffffd])")


class _GenerationTag(Extension):
    """Ignores `{% generation %}`, with which some templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class OwnTemplate:
    """Renders messages as the tokenizer's `chat_template` does, or as the template `text` does.

    Raises ModelError for a template that cannot be trained on.
    """

    def __init__(self, tokenizer: TextTokenizer, *, empty_system: bool, text: TemplateText | None = None) -> None:
        #: The template in messages.
        self.where = WHERE if text is None else text.where
        self.source = self._source_of(tokenizer, text)
        added = tokenizer.added_tokens_decoder.values()
        self._controls = control_pattern([token.content for token in added if _controls(token)])
        self._empty_system = empty_system
        self._special = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        self._jinja = self._compiled()
        written = {piece.text for piece in self.pieces(_PROBE) if piece.control}
        greedy = [token.content for token in added if token.content in written and (token.lstrip or token.rstrip)]
        if greedy:
            raise self._refused(f"uses {greedy[0]!r}, which removes the white space beside it")
        self._check_start_of_answer()
        #: The control tokens that the template writes, some of them only for other messages than the probe's.
        self.controls = written | {
            token.content for token in added if _controls(token) and token.content in self.source
        }

    def pieces(self, messages: Sequence[Message], *, generation: bool = False) -> list[Piece]:
        """The pieces of a dialogue; with `generation`, up to where the assistant's next answer begins.

        Raises DataError for messages that the template refuses, ModelError for messages that it changes.
        """
        messages = with_empty_system(messages) if self._empty_system else messages
        # An empty text stays empty: templates may test for it.
        placeholders = [
            Message(message.role, chr(_FIRST_PLACEHOLDER + number) if message.content else "")
            for number, message in enumerate(messages)
        ]
        text = self._render(placeholders, generation=generation)
        pieces: list[Piece] = []
        position = 0
        for start, end in self._answers(placeholders, text):
            pieces += split_controls(text[position:start], self._controls)
            pieces += split_controls(text[start:end], self._controls, ASSISTANT)
            position = end
        pieces += split_controls(text[position:], self._controls)
        rendered = self._render(messages, generation=generation)
        filled = _fill(pieces, messages, rendered)
        if "".join(piece.text for piece in filled) != rendered:
            raise self._refused("depends on the content of messages, or changes it")
        return filled

    def answer(self, text: str) -> list[Piece]:
        prompt = _PROBE[:1]
        return self.pieces((*prompt, Message("assistant", text)))[len(self.pieces(prompt, generation=True)) :]

    def _answers(self, messages: Sequence[Message], text: str) -> Iterator[tuple[int, int]]:
        """Where each answer starts and ends, its stop token included, in `text`, the rendering of all messages."""
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render(messages[:number], generation=True)
            after = self._render(messages[: number + 1])
            if not (after.startswith(before) and text.startswith(after)):
                raise self._refused(
                    "renders an answer differently if messages follow, or not after the generation prompt"
                )
            said = after.index(message.content, len(before)) + len(message.content)
            stop = self._controls.search(after, said)
            yield len(before), stop.end() if stop else said

    def _render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        values = {"messages": plain, "add_generation_prompt": generation}
        nothing = {"tools": None, "documents": None}
        blocks: list[str] = []
        room = MOST_RENDERED_CHARACTERS
        try:
            for block in self._jinja.generate(self._special | nothing | values):
                room -= len(block)
                if room < 0:
                    raise self._refused(f"writes over {MOST_RENDERED_CHARACTERS:,} characters")
                blocks.append(block)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(self.where, f"refuses these messages ({error})", _OTHER_TEMPLATE) from error
        return "".join(blocks)

    def _check_start_of_answer(self) -> None:
        """Raise ModelError where an answer would begin with its header, because no generation prompt writes it."""
        asked = self._render(_PROBE[:1])
        header, said, _ = self._render(_PROBE[:2]).removeprefix(asked).partition(_PROBE[1].content)
        if said and header.strip() and self._render(_PROBE[:1], generation=True) == asked:
            raise ModelError(
                self.where,
                f"has no generation prompt, so an answer would begin with its header {header!r}",
                "store it in a file that ends with {% if add_generation_prompt %}{{ "
                f"{header!r} }}}}{{% endif %}}, and set chat_template to {{name: file, path: FILE}}",
            )

    def _source_of(self, tokenizer: TextTokenizer, text: TemplateText | None) -> str:
        """The template's text: of the file, or the tokenizer's, the one named default where it has several."""
        found = tokenizer.chat_template if text is None else text.text
        source = found.get("default") if isinstance(found, Mapping) else found
        if not isinstance(source, str):
            raise self._refused("is missing: its tokenizer has none")
        if len(source) > MOST_TEMPLATE_CHARACTERS:
            raise self._refused(f"is longer than {MOST_TEMPLATE_CHARACTERS:,} characters")
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        missing = [control for control in (text.controls if text else ()) if control in source and control not in added]
        if missing:
            raise ModelError(
                self.where,
                f"writes {', '.join(map(repr, missing))}, which the tokenizer of this model does not have",
                "add these tokens to it as special tokens, or choose another chat template",
            )
        return source

    def _compiled(self) -> jinja2.Template:
        """The template in jinja's sandbox, with the names that transformers gives to templates."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise self._refused(f"is not a valid Jinja template ({error})") from error

    def _refused(self, what: str) -> ModelError:
        return ModelError(self.where, what, _OTHER_TEMPLATE)


def _controls(token: AddedToken) -> bool:
    # Added tokens can also be frequent words or runs of spaces; some models do not mark their <|...|> as special.
    return token.special or (token.content.startswith("<|") and token.content.endswith("|>"))


def _fill(pieces: Sequence[Piece], messages: Sequence[Message], rendered: str) -> list[Piece]:
    """The pieces with the messages in place of their placeholders, as far as can be seen as in `rendered`."""
    parts = [
        Piece(text, role, control) for outer, role, control in pieces for text in _PLACEHOLDER.split(outer) if text
    ]
    filled: list[Piece] = []
    position = 0
    for part, following in zip_longest(parts, parts[1:], fillvalue=_NOTHING):
        piece = part
        if _PLACEHOLDER.fullmatch(part.text):
            message = messages[ord(part.text) - _FIRST_PLACEHOLDER]
            behind = "" if _PLACEHOLDER.match(following.text) else following.text
            text = _as_rendered(message.content, behind, rendered, position)
            piece = Piece(text, ROLES.index(message.role))
        filled.append(piece)
        position += len(piece.text)
    return filled


def _as_rendered(content: str, behind: str, rendered: str, position: int) -> str:
    """The content as rendered at `position`, before `behind`: many templates strip white space around it."""
    forms = (content, content.strip(), content.lstrip(), content.rstrip())
    return next((form for form in forms if rendered.startswith(form + behind, position)), content)


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own filter escapes characters of HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
