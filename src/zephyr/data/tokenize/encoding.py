"""Dialogues as token ids with their loss mask, prompts that end where the answer begins, and completions.

Control tokens are inserted as ids and everything else is encoded as plain text, so a text that contains `</s>` ends
nothing. An answer is encoded separately from what precedes it, as in generation: the ids of a prompt and of a
completion equal those inside the dialogue.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, takewhile
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from zephyr.data.tokenize.plain_text import PlainText, TextPlace, TextTokenizer, TokenIds, Tokens
from zephyr.data.tokenize.templates import (
    ASSISTANT,
    LAYOUTS,
    TEMPLATE_TEXT,
    LayoutTemplate,
    Piece,
    Template,
    jinja_of,
)
from zephyr.errors import DataError, ModelError, RecipeError
from zephyr.recipe.model_section import FileTemplateSection, TemplateSection, TemplateText
from zephyr.recipe.objective_section import LossOn
from zephyr.records.messages import NO_INPUTS, Message, TemplateInputs

_PROBE = (Message("user", "a"),)
_MARK = re.compile(r"<[^<>\s'\"]+|\[/?[A-Z_]+\]")


class Encoded(NamedTuple):
    """A tokenised text: `ids` (n,); `scored` (n,), the tokens to learn, never the first; `roles` (n,).

    Roles are indices into ROLES, or TEMPLATE_TEXT; a stop token is the assistant's.
    """

    ids: TokenIds
    scored: npt.NDArray[np.bool_]
    roles: npt.NDArray[np.int8]

    def part(self, start: int, end: int) -> "Encoded":
        """The tokens from `start` to before `end`; its first is not scored."""
        scored = self.scored[start:end].copy()
        scored[:1] = False
        return Encoded(self.ids[start:end], scored, self.roles[start:end])


class EncodedTurns(NamedTuple):
    """A sequence of a dialogue, and the answers that are learnt in it, counted from 1."""

    answers: tuple[int, ...]
    encoded: Encoded


class RowEncoder(Protocol):
    """What makes tokens of rows: a DialogueEncoder, or one that keeps what it made."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        ...

    @property
    def end_ids(self) -> TokenIds:
        """The ids that stand between a completion and the end of its dialogue, (n,)."""
        ...

    def text(self, text: str) -> Encoded:
        """Plain text to pretrain on."""
        ...

    def dialogues(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, loss_on: LossOn
    ) -> list[EncodedTurns]:
        """The dialogue as sequences to train on."""
        ...

    def prompt(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> TokenIds:
        """The ids up to where the assistant's answer begins, (n,)."""
        ...

    def completion_of(
        self, answer: Message, prompt: Sequence[Message], inputs: TemplateInputs = NO_INPUTS
    ) -> TokenIds:  # fmt: skip
        """The ids of an answer after those of its prompt, and of its stop token, (n,)."""
        ...


class DialogueEncoder:
    """Turns messages into ids under one chat template; `text` is that of a section of a file.

    Raises ModelError if the tokenizer does not fit the template, RecipeError if it lacks a token the section needs.
    """

    def __init__(
        self, tokenizer: TextTokenizer, section: TemplateSection, text: TemplateText | None = None
    ) -> None:  # fmt: skip
        self.section, self._template, controls, own = _resolve(tokenizer, section, text)
        #: The template to store in the tokenizer, so that it renders what was trained on.
        self.chat_template = jinja_of(self.section, own=own)
        #: Whether the tokenizer comes with a template of other marks; one from a file is chosen knowingly.
        self.replaces_template = text is None and not _marks(tokenizer.chat_template) <= _marks(self.chat_template)
        self._plain = PlainText(tokenizer, controls)
        self._ids = {control: self._plain.control_id(control) for control in controls}
        self._bos = tokenizer.bos_token if _begins_with_bos(tokenizer) else None
        self._eos = tokenizer.eos_token
        self._prompt_ends: TextPlace = (
            "control" if self._template.pieces(_PROBE, generation=True)[-1].control else "text"
        )
        probe = self._template.answer(Message("assistant", "a"))
        last = _stop_index(probe, "the model's own chat template" if text is None else text.where)
        stop = probe[last].text
        #: The ids that end an answer, the template's own first.
        self.stop_ids = tuple(dict.fromkeys(self._ids[text] for text in (stop, self._eos) if text))
        #: The ids that stand between a completion and the end of its dialogue, such as a line break.
        self.end_ids = self._encode([] if self.section.extra_eos else probe[last + 1 :], "control", "everything").ids

    def render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """The text of a dialogue; with `generation`, up to where the assistant's next answer begins."""
        return "".join(piece.text for piece in self._template.pieces(messages, generation=generation))

    def dialogues(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, loss_on: LossOn
    ) -> list[EncodedTurns]:
        """The dialogue as sequences to train on: one, unless the template shows answers in another way later.

        `assistant` scores each answer with its stop token, `everything` all but the first; neither what is marked as
        not to be learnt, nor a second time what an earlier sequence begins with.
        """
        found: list[EncodedTurns] = []
        for answers, pieces in self._template.sequences(self._with_reasoning(messages), inputs):
            encoded = self._encode([*pieces, *self._extra_eos()], "start", loss_on)
            for earlier in found if loss_on == "everything" else ():
                encoded.scored[: _common_length(earlier.encoded.ids, encoded.ids)] = False
            found.append(EncodedTurns(answers, encoded))
        return found

    def dialogue(self, messages: Sequence[Message], *, loss_on: LossOn) -> Encoded:
        """The dialogue as the one sequence it is. Raises DataError for one that takes several; see `dialogues`."""
        first, *more = self.dialogues(messages, loss_on=loss_on)
        if more:
            raise DataError("the dialogue", "is trained in several sequences", "encode it with dialogues")
        return first.encoded

    def prompt(self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> TokenIds:
        """The ids up to where the assistant's answer begins, (n,)."""
        pieces = self._template.pieces(self._with_reasoning(messages), inputs, generation=True)
        return self._encode(pieces, "start", "everything").ids

    def completion(self, text: str) -> TokenIds:
        """The ids of an answer and its stop token, (n,); with `extra_eos` all that follows at the end of a dialogue."""
        return self._completion(self._template.answer(Message("assistant", text)))

    def completion_of(self, answer: Message, prompt: Sequence[Message], inputs: TemplateInputs = NO_INPUTS) -> TokenIds:
        """The ids of an answer that may have reasoning and tool calls, as `completion`, after those of its prompt.

        Raises DataError for reasoning that is to be masked: all tokens of a completion count.
        """
        if answer.reasoning and self.section.reasoning == "mask":
            what = "cannot mask the reasoning of a preference, whose answers count whole"
            raise DataError("chat_template.reasoning", what, "set it to learn or drop")
        (answer,) = self._with_reasoning([answer])
        if inputs == NO_INPUTS and answer.is_plain and all(message.is_plain for message in prompt):
            return self.completion(answer.content)
        return self._completion(self._template.answer(answer, self._with_reasoning(prompt), inputs))

    def _completion(self, pieces: Sequence[Piece]) -> TokenIds:
        if not self.section.extra_eos:
            pieces = pieces[: _stop_index(pieces, "chat template") + 1]
        return self._encode([*pieces, *self._extra_eos()], self._prompt_ends, "everything").ids

    def _with_reasoning(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, without their reasoning where the section drops it."""
        if self.section.reasoning != "drop":
            return messages
        return [message._replace(reasoning="") for message in messages]

    def text(self, text: str) -> Encoded:
        """Plain text to pretrain on, between bos and eos where the tokenizer has them."""
        before, after = (np.array([self._ids[end]] if end else [], np.int64) for end in (self._bos, self._eos))
        # A tokenizer that adds bos itself tokenises the text after it as the start of a text.
        ids = np.concatenate([before, self._plain.encode(text, "start").ids, after])
        return _with_mask(ids, np.full(len(ids), TEMPLATE_TEXT, np.int8), np.ones(len(ids), np.bool_), "everything")

    def text_of(self, completion: Sequence[int]) -> str:
        """The text of a completion's ids (n,) up to its stop token, without other control tokens."""
        return self._plain.decode(list(takewhile(lambda token: token not in self.stop_ids, map(int, completion))))

    def written_controls(self) -> dict[str, int]:
        """The control tokens that a question and its answer are written with, and their ids."""
        pieces = [*self._template.pieces(_PROBE), *self._template.answer(Message("assistant", "a"))]
        return {piece.text: self._ids[piece.text] for piece in (*pieces, *self._extra_eos()) if piece.control}

    def _extra_eos(self) -> list[Piece]:
        return [Piece(self._eos, control=True)] if self.section.extra_eos and self._eos else []

    def _encode(self, pieces: Iterable[Piece], place: TextPlace, loss_on: LossOn) -> Encoded:
        """The ids of `pieces`; texts between control tokens are encoded together, but each answer by itself."""
        ids: list[TokenIds] = []
        roles: list[npt.NDArray[np.int8]] = []
        learn: list[npt.NDArray[np.bool_]] = []
        filled = (piece for piece in pieces if piece.text)
        for (control, _), group in groupby(filled, lambda piece: (piece.control, piece.role == ASSISTANT)):
            run = list(group)
            if control:
                ids.append(np.array([self._ids[piece.text] for piece in run], np.int64))
                roles.append(np.array([piece.role for piece in run], np.int8))
                learn.append(np.array([piece.learn for piece in run], np.bool_))
            else:
                tokens = self._tokens("".join(piece.text for piece in run), place)
                ids.append(tokens.ids)
                roles.append(_roles(tokens, run))
                learn.append(_learn(tokens, run))
            place = "control" if control else "text"
        if not ids:
            return _with_mask(np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.bool_), loss_on)
        return _with_mask(np.concatenate(ids), np.concatenate(roles), np.concatenate(learn), loss_on)

    def _tokens(self, text: str, place: TextPlace) -> Tokens:
        if place != "control" or not self.section.legacy_space:
            return self._plain.encode(text, place)
        if self._plain.has_dummy_space:
            return self._plain.encode(text, "start")
        space, tokens = self._plain.encode(" ", place), self._plain.encode(text, "text")
        return Tokens(np.concatenate([space.ids, tokens.ids]), np.concatenate([space.spans * 0, tokens.spans]))


class _Resolved(NamedTuple):
    """The section with `bos` resolved, its template, the control tokens, and the jinja source of an own template."""

    section: TemplateSection
    template: Template
    controls: tuple[str, ...]
    own: str


def _marks(template: object) -> set[str]:
    """What a template puts around messages, such as <|user|> and [INST]; templates may say the same in other words."""
    return set(_MARK.findall(str(template or "")))


def _resolve(tokenizer: TextTokenizer, section: TemplateSection, text: TemplateText | None) -> _Resolved:
    bos, eos, masks = tokenizer.bos_token or "", tokenizer.eos_token or "", section.reasoning == "mask"
    if section.extra_eos and not eos:
        raise RecipeError("chat_template.extra_eos", "the tokenizer has no eos token", "leave it out")
    ends = [token for token in (bos, eos) if token]
    if isinstance(section, FileTemplateSection) or section.name == "own":
        from zephyr.data.tokenize.tokenizer_template import OwnTemplate

        own = OwnTemplate(
            tokenizer, empty_system=section.empty_system, mask_reasoning=masks, text=text, variables=section.variables
        )
        begins = own.pieces(_PROBE)[0].text == bos
        if section.bos not in (None, begins):
            raise RecipeError(
                "chat_template.bos",
                f"{own.where} begins {'with' if begins else 'without'} a bos token, got {section.bos}",
                "leave it out, or choose another template",
            )
        return _Resolved(section.model_copy(update={"bos": begins}), own, tuple({*own.controls, *ends}), own.source)
    if section.bos and not bos:
        raise RecipeError("chat_template.bos", "the tokenizer has no bos token", "leave it out or set it to false")
    layout = LAYOUTS[section.name]
    if not (layout.stop or eos):
        raise ModelError(
            f"chat template {section.name}",
            "ends messages with eos, which the tokenizer does not have",
            "add an eos token",
        )
    bos_first = _begins_with_bos(tokenizer) if section.bos is None else section.bos
    template = LayoutTemplate(
        layout, bos=bos if bos_first else "", eos=eos, empty_system=section.empty_system, mask_reasoning=masks
    )
    return _Resolved(section.model_copy(update={"bos": bos_first}), template, tuple({*layout.controls, *ends}), "")


def _begins_with_bos(tokenizer: TextTokenizer) -> bool:
    """Whether the tokenizer itself puts its bos token before a text."""
    if not tokenizer.bos_token:
        return False
    found = [
        np.asarray(
            tokenizer(
                "a", add_special_tokens=add, split_special_tokens=False, return_offsets_mapping=False, verbose=False
            )["input_ids"]
        )
        for add in (False, True)
    ]
    return len(found[1]) > len(found[0]) and bool(np.array_equal(found[1][1 : len(found[0]) + 1], found[0]))


def _stop_index(pieces: Sequence[Piece], where: str) -> int:
    """The index of the control token that ends an answer, in the pieces of that answer."""
    stops = [index for index, piece in enumerate(pieces) if piece.control and piece.role == ASSISTANT]
    if not stops:
        raise ModelError(
            where,
            "ends an answer without a control token of the tokenizer, so a model would not learn to stop",
            "set chat_template.name to zephyr, chatml or llama3, or end answers with {{ eos_token }}",
        )
    return stops[-1]


def _roles(tokens: Tokens, pieces: Sequence[Piece]) -> npt.NDArray[np.int8]:
    """The role of each token, (n,); a token across template text and a message is the message's."""
    by_character = np.repeat(np.array([piece.role for piece in pieces], np.int8), [len(piece.text) for piece in pieces])
    last = len(by_character) - 1
    first_of, last_of = np.minimum(tokens.spans[:, 0], last), np.clip(tokens.spans[:, 1] - 1, 0, last)
    return np.maximum(by_character[first_of], by_character[np.maximum(first_of, last_of)])


def _learn(tokens: Tokens, pieces: Sequence[Piece]) -> npt.NDArray[np.bool_]:
    """Whether each token is learnt, (n,); a token across two pieces is as the piece that it ends in."""
    by_character = np.repeat([piece.learn for piece in pieces], [len(piece.text) for piece in pieces])
    return by_character[np.clip(tokens.spans[:, 1] - 1, 0, len(by_character) - 1)]


def _common_length(ids: TokenIds, others: TokenIds) -> int:
    """The number of tokens that both begin with."""
    length = min(len(ids), len(others))
    differ = np.flatnonzero(ids[:length] != others[:length])
    return int(differ[0]) if len(differ) else length


def _with_mask(ids: TokenIds, roles: npt.NDArray[np.int8], learn: npt.NDArray[np.bool_], loss_on: LossOn) -> Encoded:
    scored = learn & (roles == ASSISTANT) if loss_on == "assistant" else learn.copy()
    scored[:1] = False
    return Encoded(ids, scored, roles)
