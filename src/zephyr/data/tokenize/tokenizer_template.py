"""The chat template of a tokenizer or a file, split into pieces by rendering placeholders.

The text and the reasoning of every message are rendered as a placeholder of one character. The assistant's part is
found by rendering the dialogue up to each answer, with and without it: what is learnt follows exactly what the model is
given when it is served. Templates that show an earlier answer in another way than at its own turn, without its
reasoning or with the tools at another place, are trained in several sequences, each as it is at one turn.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from zephyr.data.tokenize.jinja_rendering import (
    JinjaTemplate,
    ReasoningStyle,
    json_texts,
    variables_of,
    with_short_ids,
)
from zephyr.data.tokenize.plain_text import AddedToken, TextTokenizer
from zephyr.data.tokenize.templates import (
    ASSISTANT,
    WITHOUT_VARIABLES,
    Piece,
    Sequenced,
    control_pattern,
    split_controls,
    with_empty_system,
)
from zephyr.errors import DataError, ModelError
from zephyr.recipe.model_section import NO_VALUES, TemplateText, TemplateValue
from zephyr.records.fields import listed
from zephyr.records.messages import NO_INPUTS, ROLES, Message, TemplateInputs, has_tools

_PROBE = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
_NOTHING = Piece("")

# Private-use planes of Unicode: one character for the text of a message, one for its reasoning.
_FIRST_TEXT, _FIRST_REASONING = 0xF0000, 0x100000
_PLACEHOLDER = re.compile("([\U000f0000-\U000ffffd\U00100000-\U0010fffd])")
_OPEN_TAG = re.compile(r"<think>\s*$")
_TAG_END = r"\s*</think>\s*"
_EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")


class _Turn(NamedTuple):
    """An answer at its own turn: the text that the model goes on from, and the text that ends with the answer."""

    before: str
    after: str


class _Rendered(NamedTuple):
    """The same text with placeholders, and with what they stand for."""

    marked: str
    real: str


class OwnTemplate:
    """Renders messages as the tokenizer's `chat_template` does, or as the template `text` does.

    With `mask_reasoning` the reasoning of an answer is shown and not learnt; `variables` hold for all rows. Raises
    ModelError for a template that cannot be trained on.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        empty_system: bool,
        mask_reasoning: bool = False,
        text: TemplateText | None = None,
        variables: Mapping[str, TemplateValue] = NO_VALUES,
    ) -> None:
        self._jinja = JinjaTemplate(tokenizer, text, variables)
        self.source, self.where = self._jinja.source, self._jinja.where
        added = tokenizer.added_tokens_decoder.values()
        self._controls = control_pattern([token.content for token in added if _controls(token)])
        self._empty_system = empty_system
        self._mask_reasoning = mask_reasoning
        self._style: ReasoningStyle | None = None
        written = {piece.text for one in self.sequences(_PROBE) for piece in one.pieces if piece.control}
        greedy = [token.content for token in added if token.content in written and (token.lstrip or token.rstrip)]
        if greedy:
            raise self._jinja.refused(f"uses {greedy[0]!r}, which removes the white space beside it")
        self._check_start_of_answer()
        #: The control tokens that the template writes, some of them only for other messages than the probe's.
        self.controls = written | {
            token.content for token in added if _controls(token) and token.content in self.source
        }

    def pieces(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, generation: bool = False
    ) -> list[Piece]:
        """The pieces of a dialogue; with `generation`, up to where the assistant's next answer begins.

        Raises DataError for messages that the template refuses, ModelError for messages that it changes.
        """
        real = self._prepared(messages, inputs)
        marked = _marked(real)
        texts = _Rendered(*(self._render(some, inputs, generation=generation) for some in (marked, real)))
        return self._pieces(real, texts, self._turns(marked, inputs))

    def sequences(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> list[Sequenced]:
        real = self._prepared(messages, inputs)
        marked = _marked(real)
        turns = self._turns(marked, inputs)
        learnt = [number for number in turns if real[number].learn]
        for number in learnt:
            self._expect_turn(turns[number], real[number], number)
        whole = self._text(marked, len(marked) - 1, inputs)
        if not learnt or all(turn is not None and whole.startswith(turn.after) for turn in turns.values()):
            ends = {len(real) - 1: learnt}
        else:
            ends = _ends(turns, learnt)
        places = {number: place for place, number in enumerate(turns, 1)}
        return [
            Sequenced(
                tuple(places[number] for number in covered),
                self._pieces(real[: end + 1], self._texts(marked, real, end, inputs), turns, covered),
            )
            for end, covered in ends.items()
        ]

    def answer(
        self, message: Message, prompt: Sequence[Message] = _PROBE[:1], inputs: TemplateInputs = NO_INPUTS
    ) -> list[Piece]:
        real = self._prepared((*prompt, message._replace(learn=True)), inputs)
        marked, last = _marked(real), len(real) - 1
        turns = self._turns(marked, inputs)
        self._expect_turn(turns[last], real[last], last)
        pieces = self._pieces(real, self._texts(marked, real, last, inputs), turns, [last])
        return pieces[len(self.pieces(prompt, inputs, generation=True)) :]

    def _prepared(self, messages: Sequence[Message], inputs: TemplateInputs) -> list[Message]:
        """The messages as this template takes them. Raises DataError for inputs that it does not take."""
        real = list(with_empty_system(messages) if self._empty_system else messages)
        variables = variables_of(inputs)
        unused = self._jinja.unused(variables)
        if unused:
            raise self._jinja.fault(f"does not use {listed(unused)}; {WITHOUT_VARIABLES}")
        declared = [*json_texts(variables), *(json_texts(json.loads(inputs.tools)) if inputs.tools else ())]
        called = [text for one in real for call in one.tool_calls for text in (call.name, *json_texts(call.parsed()))]
        for text in (*declared, *called):
            control = self._controls.search(text)
            if control:
                raise self._jinja.fault(f"finds the control token {control[0]!r} in a tool, a call or a variable")
        for number, message in enumerate(real):
            thought = _EMPTY_THOUGHT.match(message.content) if message.role == "assistant" else None
            # A template that knows of reasoning writes its own tags around none.
            if thought and self._reasoning_style() != "text":
                real[number] = message._replace(content=message.content[thought.end() :])
        if has_tools(real):
            try:
                self._render(real, inputs)
            except DataError:
                real = with_short_ids(real)
        if inputs.tools and self._render(real, inputs) == self._render(real, inputs._replace(tools="")):
            raise self._jinja.fault("leaves out tools")
        return real

    def _turns(self, marked: Sequence[Message], inputs: TemplateInputs) -> dict[int, _Turn | None]:
        """The turn of every answer, by its number among the messages; None where it does not continue its prompt."""
        turns: dict[int, _Turn | None] = {}
        for number, message in enumerate(marked):
            if message.role == "assistant":
                before, after = (
                    self._render(marked[:number], inputs, generation=True),
                    self._text(marked, number, inputs),
                )
                turns[number] = _Turn(before, after) if after.startswith(before) else None
        return turns

    def _texts(
        self, marked: Sequence[Message], real: Sequence[Message], last: int, inputs: TemplateInputs
    ) -> _Rendered:
        return _Rendered(self._text(marked, last, inputs), self._text(real, last, inputs))

    def _text(self, messages: Sequence[Message], last: int, inputs: TemplateInputs) -> str:
        """The text of the messages up to number `last`, whose answer goes on from a tag that its prompt opens."""
        text = self._render(messages[: last + 1], inputs)
        if messages[last].role != "assistant":
            return text
        before = self._render(messages[:last], inputs, generation=True)
        opening = _OPEN_TAG.search(before)
        if opening is None or text.startswith(before) or not text.startswith(before[: opening.start()]):
            return text
        line = "" if before.endswith("\n") else "\n"
        thought = f"{line}{messages[last].reasoning}\n</think>\n\n"
        return before + thought + text[opening.start() :]

    def _render(self, messages: Sequence[Message], inputs: TemplateInputs, *, generation: bool = False) -> str:
        style = self._reasoning_style() if any(message.reasoning for message in messages) else "keys"
        return self._jinja.render(messages, inputs, generation=generation, style=style)

    def _reasoning_style(self) -> ReasoningStyle:
        """How this template takes reasoning, found by trying."""
        if self._style is None:
            question, thought, said = Message("user", "a"), chr(_FIRST_REASONING), chr(_FIRST_TEXT)
            before = self._jinja.render([question], generation=True)
            asked = [question, Message("assistant", said, thought)]
            styles: tuple[ReasoningStyle, ...] = ("keys", "text")
            texts = {style: self._jinja.render(asked, style=style) for style in styles}
            fit = [style for style in styles if texts[style].startswith(before) and thought in texts[style]]
            if not fit and not _OPEN_TAG.search(before):
                raise self._jinja.fault("does not render reasoning; chat_template.reasoning: drop leaves it out")
            self._style = fit[0] if fit else "opened"
        return self._style

    def _check_start_of_answer(self) -> None:
        """Raise ModelError where an answer would begin with its header, because no generation prompt writes it."""
        asked = self._render(_PROBE[:1], NO_INPUTS)
        header, said, _ = self._render(_PROBE[:2], NO_INPUTS).removeprefix(asked).partition(_PROBE[1].content)
        if said and header.strip() and self._render(_PROBE[:1], NO_INPUTS, generation=True) == asked:
            raise ModelError(
                self.where,
                f"has no generation prompt, so an answer would begin with its header {header!r}",
                "store it in a file that ends with {% if add_generation_prompt %}{{ "
                f"{header!r} }}}}{{% endif %}}, and set chat_template to {{name: file, path: FILE}}",
            )

    def _expect_turn(self, turn: _Turn | None, message: Message, number: int) -> None:
        """Raises ModelError for an answer that does not continue its prompt, DataError where a part of it is lost."""
        if turn is None:
            raise self._jinja.refused("begins an answer in another way than its generation prompt")
        said = turn.after[len(turn.before) :]
        if message.reasoning and chr(_FIRST_REASONING + number) not in said:
            what = f"leaves out the reasoning of message {number + 1}; chat_template.reasoning: drop allows it"
            raise self._jinja.fault(what)
        if not all(call.name in said for call in message.tool_calls):
            raise self._jinja.fault("leaves out tool calls")

    def _pieces(
        self,
        real: Sequence[Message],
        rendered: _Rendered,
        turns: Mapping[int, _Turn | None],
        learnt: Collection[int] = (),
    ) -> list[Piece]:
        """The pieces of the messages' text, the assistant's where it shows an answer as at its own turn."""
        text = rendered.marked
        lost = [number for number, one in enumerate(_marked(real)) if one.content not in text]
        if lost:
            raise self._jinja.fault(f"leaves out message {lost[0] + 1} ({real[lost[0]].role})")
        pieces: list[Piece] = []
        position = 0
        for number, turn in turns.items():
            if turn is None or not text.startswith(turn.after):
                continue
            start, end = len(turn.before), self._end(turn, real[number], number)
            masked = self._masked_end(turn.after, number) if self._mask_reasoning else start
            learn = number in learnt
            pieces += split_controls(text[position:start], self._controls)
            pieces += split_controls(text[start:masked], self._controls, ASSISTANT, learn=False)
            pieces += split_controls(text[max(start, masked) : end], self._controls, ASSISTANT, learn=learn)
            position = end
        pieces += split_controls(text[position:], self._controls)
        filled = _fill(pieces, real, rendered.real)
        if "".join(piece.text for piece in filled) != rendered.real:
            raise self._jinja.refused("depends on the content of messages, or changes it")
        return filled

    def _end(self, turn: _Turn, message: Message, number: int) -> int:
        """Where the answer ends, its stop token included."""
        if message.tool_calls:
            # Calls may have control tokens of their own; the last one stops the answer.
            return max((found.end() for found in self._controls.finditer(turn.after, len(turn.before))), default=0) or (
                len(turn.after)
            )
        said = turn.after.find(chr(_FIRST_TEXT + number), len(turn.before)) + 1 or len(turn.before)
        stop = self._controls.search(turn.after, said)
        return stop.end() if stop else said

    def _masked_end(self, after: str, number: int) -> int:
        """Where the reasoning of an answer ends in its text, with its closing tag; 0 without reasoning."""
        thought = re.search(re.escape(chr(_FIRST_REASONING + number)) + _TAG_END, after)
        return thought.end() if thought else 0


def _marked(messages: Sequence[Message]) -> list[Message]:
    """The messages with placeholders for texts and reasoning.

    What is empty stays empty, since templates test for it, and equal questions stay equal: Mistral's compare them.
    """
    return [
        message._replace(
            content=chr(_FIRST_TEXT + (number if message.role == "assistant" else messages.index(message)))
            if message.content
            else "",
            reasoning=chr(_FIRST_REASONING + number) if message.reasoning else "",
        )
        for number, message in enumerate(messages)
    ]


def _ends(turns: Mapping[int, _Turn | None], learnt: Sequence[int]) -> dict[int, list[int]]:
    """The answers at which a sequence ends, and those learnt in it: all that it shows as at their own turn."""
    ends: dict[int, list[int]] = {}
    waiting = list(learnt)
    while waiting:
        last = turns[waiting[-1]]
        assert last is not None
        shown = [number for number in waiting if (turn := turns[number]) and last.after.startswith(turn.after)]
        ends[waiting[-1]] = shown
        waiting = [number for number in waiting if number not in shown]
    return dict(sorted(ends.items()))


def _controls(token: AddedToken) -> bool:
    # Added tokens can also be frequent words or runs of spaces; some models do not mark their <|...|> as special.
    return token.special or (token.content.startswith("<|") and token.content.endswith("|>"))


def _fill(pieces: Sequence[Piece], messages: Sequence[Message], rendered: str) -> list[Piece]:
    """The pieces with the messages in place of their placeholders, as far as can be seen as in `rendered`."""
    parts = [outer._replace(text=text) for outer in pieces for text in _PLACEHOLDER.split(outer.text) if text]
    filled: list[Piece] = []
    position = 0
    for part, following in zip_longest(parts, parts[1:], fillvalue=_NOTHING):
        piece = part
        if _PLACEHOLDER.fullmatch(part.text):
            is_reasoning = ord(part.text) >= _FIRST_REASONING
            message = messages[ord(part.text) - (_FIRST_REASONING if is_reasoning else _FIRST_TEXT)]
            behind = "" if _PLACEHOLDER.match(following.text) else following.text
            text = _as_rendered(message.reasoning if is_reasoning else message.content, behind, rendered, position)
            # An answer that is shown, and not one of those found at their turn, is not learnt.
            learn = part.learn and message.learn and (part.role == ASSISTANT or message.role != "assistant")
            piece = Piece(text, ROLES.index(message.role), learn=learn)
        filled.append(piece)
        position += len(piece.text)
    return filled


def _as_rendered(content: str, behind: str, rendered: str, position: int) -> str:
    """The content as rendered at `position`, before `behind`: stripped as many templates do, or as JSON text."""
    plain = (content, content.strip(), content.lstrip(), content.rstrip())
    lines = (content.strip("\n"), content.lstrip("\n"), content.rstrip("\n"), content.rstrip().lstrip("\n"))
    forms = (*plain, *lines, *(json.dumps(form, ensure_ascii=False)[1:-1] for form in plain))
    return next((form for form in forms if rendered.startswith(form + behind, position)), content)
