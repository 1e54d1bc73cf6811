"""Chat templates: how messages become text, and which pieces of it are control tokens or the assistant's.

Pieces keep what a rendered jinja template loses: control tokens become ids without searching for their text, and the
loss mask is known by construction. `encoding` turns pieces into ids, `tokenizer_template` reads a tokenizer's template.
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, Protocol

from zephyr.errors import DataError
from zephyr.recipe.model_section import FileTemplateSection, TemplateSection
from zephyr.records.messages import NO_INPUTS, PLAIN_ROLES, ROLES, VARIABLES_KEY, Message, TemplateInputs, has_tools

TEMPLATE_TEXT = -1  # the role of text that belongs to no message
WITHOUT_VARIABLES = f"ignore: [{VARIABLES_KEY}] reads the rows without theirs"
ASSISTANT = ROLES.index("assistant")


class Piece(NamedTuple):
    """A piece of a rendered dialogue: one control token, or text of one role.

    `role` is an index into ROLES, or TEMPLATE_TEXT. The assistant's pieces are what it generates: its answer and the
    control token that stops it. With `learn` false they are only shown.
    """

    text: str
    role: int = TEMPLATE_TEXT
    control: bool = False
    learn: bool = True


class Sequenced(NamedTuple):
    """A sequence to train on: the answers learnt in it, counted from 1 in their dialogue, and its pieces."""

    answers: tuple[int, ...]
    pieces: list[Piece]


class Template(Protocol):
    """Renders messages as pieces; joined, they equal what the template of `jinja_of` renders."""

    def pieces(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, generation: bool = False
    ) -> list[Piece]:
        """The pieces of a dialogue; with `generation`, up to where the assistant's next answer begins.

        Raises DataError for messages or inputs that cannot be rendered.
        """
        ...

    def sequences(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> list[Sequenced]:
        """The sequences to train on: one, unless answers are shown in another way once other messages follow."""
        ...

    def answer(
        self, message: Message, prompt: Sequence[Message] = ..., inputs: TemplateInputs = NO_INPUTS
    ) -> list[Piece]:
        """The pieces after those of a prompt: the answer, its stop token, and what the template puts after it."""
        ...


class MessageLayout(NamedTuple):
    """The parts of a rendered message: `header`, its text, one `stop` token, `tail`."""

    header: str  # with {role} as a placeholder
    stop: str  # empty: the tokenizer's end-of-sequence token
    tail: str
    controls: tuple[str, ...] = ()
    strips: bool = False  # strips white space around the text of a message


# Source of zephyr: the chat template of HuggingFaceH4/zephyr-7b-beta; its role markers are plain text.
LAYOUTS: dict[Literal["zephyr", "chatml", "llama3"], MessageLayout] = {
    "zephyr": MessageLayout("<|{role}|>\n", "", "\n"),
    "chatml": MessageLayout("<|im_start|>{role}\n", "<|im_end|>", "\n", ("<|im_start|>", "<|im_end|>")),
    "llama3": MessageLayout(
        "<|start_header_id|>{role}<|end_header_id|>\n\n",
        "<|eot_id|>",
        "",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        strips=True,
    ),
}


class LayoutTemplate:
    """A template of LAYOUTS; `bos` and `eos` are the texts of these tokens, empty for none."""

    def __init__(
        self, layout: MessageLayout, *, bos: str, eos: str, empty_system: bool, mask_reasoning: bool = False
    ) -> None:
        pattern = control_pattern(layout.controls)
        self._headers = {role: split_controls(layout.header.format(role=role), pattern) for role in PLAIN_ROLES}
        self._bos = [Piece(bos, control=True)] if bos else []
        self._stop = layout.stop or eos
        self._layout = layout
        self._empty_system = empty_system
        self._mask_reasoning = mask_reasoning

    def pieces(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, generation: bool = False
    ) -> list[Piece]:
        """The pieces of a dialogue. Raises DataError for one with tools or variables."""
        if inputs.tools or has_tools(messages):
            what = "cannot render tools; chat_template.name: own takes the template of the model, if that can"
            raise DataError("the built-in chat template", what, "remove the row")
        if inputs.variables:
            what = "has no variables; chat_template.name: own takes the template of the model, if that uses them, and "
            raise DataError("the built-in chat template", f"{what}{WITHOUT_VARIABLES}", "remove the row")
        messages = with_empty_system(messages) if self._empty_system else messages
        pieces = list(self._bos)
        for message in messages:
            pieces += [*self._headers[message.role], *self.answer(message)]
        # In jinja this is inside the loop over messages: without messages, no generation prompt.
        return [*pieces, *self._headers["assistant"]] if generation and messages else pieces

    def sequences(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> list[Sequenced]:
        answers = [message for message in messages if message.role == "assistant"]
        learnt = (place for place, answer in enumerate(answers, 1) if answer.learn)
        return [Sequenced(tuple(learnt), self.pieces(messages, inputs))]

    def answer(
        self, message: Message, prompt: Sequence[Message] = (), inputs: TemplateInputs = NO_INPUTS
    ) -> list[Piece]:
        if inputs != NO_INPUTS or has_tools((*prompt, message)):
            self.pieces((*prompt, message), inputs)
        role, text = ROLES.index(message.role), message.content
        stop = Piece(self._stop, role if role == ASSISTANT else TEMPLATE_TEXT, control=True, learn=message.learn)
        thought = Piece(think_block(message.reasoning) if message.reasoning else "", role)
        if self._layout.strips:
            text = text.rstrip() if thought.text else text.strip()
        thought = thought._replace(learn=message.learn and not self._mask_reasoning)
        return [thought, Piece(text, role, learn=message.learn), stop, Piece(self._layout.tail)]


def think_block(reasoning: str) -> str:
    """Reasoning in the tags of DeepSeek-R1 and Qwen, before an answer."""
    return f"<think>\n{reasoning}\n</think>\n\n"


def with_empty_system(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, with an empty system message first if they have none."""
    if not messages or messages[0].role == "system":
        return messages
    return (Message("system", ""), *messages)


def control_pattern(controls: Collection[str]) -> re.Pattern[str]:
    """A pattern that finds the texts of control tokens."""
    # Longest first: a token may be the prefix of another. Without any, a pattern that matches nothing.
    return re.compile("|".join(re.escape(text) for text in sorted(controls, key=len, reverse=True)) or "(?!)")


def split_controls(
    text: str, controls: re.Pattern[str], role: int = TEMPLATE_TEXT, *, learn: bool = True
) -> list[Piece]:
    """The text as pieces of one role, with its control tokens as pieces of their own."""
    pieces = []
    position = 0
    for found in controls.finditer(text):
        before = Piece(text[position : found.start()], role, learn=learn)
        pieces += [before, Piece(found[0], role, control=True, learn=learn)]
        position = found.end()
    return [piece for piece in (*pieces, Piece(text[position:], role, learn=learn)) if piece.text]


def jinja_of(section: TemplateSection, *, own: str = "") -> str:
    """The chat template to store in the tokenizer, which renders what the pieces join to.

    `own` is the template of the tokenizer or file that the section names. A bos token is written only if `section.bos`
    is True (the encoder's section has it resolved). `extra_eos` and `legacy_space` are not in the template: the first
    ends a sequence, not a message, and the second changes ids, not text.
    """
    if isinstance(section, FileTemplateSection) or section.name == "own":
        return _EMPTY_SYSTEM * section.empty_system + own
    layout = LAYOUTS[section.name]
    content = "message['content'] | trim" if layout.strips else "message['content']"
    stop = _quote(layout.stop) if layout.stop else "eos_token"
    before, after = layout.header.split("{role}")
    message = [
        _quote(before),
        "message['role']",
        _quote(after),
        content,
        stop,
        *([_quote(layout.tail)] * bool(layout.tail)),
    ]
    roles = ", ".join(_quote(role) for role in PLAIN_ROLES)
    return (
        "{{ bos_token }}" * bool(section.bos)
        + _EMPTY_SYSTEM * section.empty_system
        + "{% for message in messages %}"
        + f"{{% if message['role'] in [{roles}] %}}{{{{ {' + '.join(message)} }}}}{{% endif %}}"
        + "{% if loop.last and add_generation_prompt %}"
        + f"{{{{ {_quote(layout.header.format(role='assistant'))} }}}}"
        + "{% endif %}{% endfor %}"
    )


_EMPTY_SYSTEM = (
    "{% if messages and messages[0]['role'] != 'system' %}"
    "{% set messages = [{'role': 'system', 'content': ''}] + messages %}"
    "{% endif %}"
)


def _quote(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"
