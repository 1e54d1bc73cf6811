"""An answer as text while it is written: whole characters only, and nothing of a stop text or after it."""

import re
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from queue import SimpleQueue
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from zephyr.models.continuous import ContinuousWriter
from zephyr.models.generation import stop_ids_of
from zephyr.models.samples import DrawnToken, DrawRules, EndReason, Sample
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.teacher_section import SamplingSection

# What a decoder writes for bytes that are no whole character.
NO_CHARACTER = "\ufffd"
# A character has at most four bytes, and a token at least one.
MOST_HELD = 4
# How SentencePiece writes a space, and byte-level vocabularies the bytes from 0 to 255: the printable as themselves.
_SPACE = "\u2581"
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_BYTE_LEVEL = [
    chr(byte if byte in _PRINTABLE else 0x100 + sum(other not in _PRINTABLE for other in range(byte)))
    for byte in range(0x100)
]


class TextPieces:
    """The text of ids that come one by one, in pieces of whole characters, without control tokens.

    Bytes that become no character are left out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The first token would lose its leading space; a letter stands before it.
        self._ids: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._known = self._decode()
        self._held = 0

    def add(self, token: int) -> str:
        """The text that is whole now and was not before."""
        self._ids.append(token)
        self._held += 1
        now = self._decode()
        if now.endswith(NO_CHARACTER) and self._held < MOST_HELD:
            return ""
        return self._taken(now)

    def rest(self) -> str:
        """The text of what was held back, at the end."""
        return self._taken(self._decode()) if self._held else ""

    def _taken(self, now: str) -> str:
        piece = now[len(self._known) :].replace(NO_CHARACTER, "")
        # Enough of the past to see what a token looks like after it, and never the whole.
        self._ids = self._ids[-max(self._held, 1) :]
        self._known, self._held = self._decode(), 0
        return piece

    def _decode(self) -> str:
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


class StopFilter:
    """Text up to the first of some texts that is complete in it, however the text is cut into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_reached = False

    def add(self, piece: str) -> str:
        """What can be shown of the text so far and was not before; the beginning of a stop text is held back."""
        if self.is_reached:
            return ""
        text = self._held + piece
        # The first to be complete; of those that end together, the longest.
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.is_reached, self._held = True, ""
            return text[: min(ends)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, where no stop text came."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many of the text's last characters begin the stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class TextPart(NamedTuple):
    """Text that is shown together, and its tokens. The last part has a `reason` and the number of all tokens."""

    text: str
    tokens: tuple[DrawnToken, ...] = ()
    reason: EndReason | None = None
    num_tokens: int = 0


class TextListener:
    """Emit the text of a sample part by part as its tokens come, or the error that ended it."""

    def __init__(
        self, tokenizer: Tokenizer, emit: Callable[[TextPart | Exception], None], *, stops: Sequence[str] = ()
    ) -> None:
        self._tokenizer, self._stops, self._emit = tokenizer, StopFilter(stops), emit
        # Of tokens that are not shown yet: how many characters came before each.
        self._waiting: list[tuple[int, DrawnToken]] = []
        self._num_written = self._num_shown = 0

    @cached_property
    def _pieces(self) -> TextPieces:
        # Made where it is used: the library's tokenizers cannot be used by two threads at once.
        return TextPieces(self._tokenizer)

    def took(self, token: DrawnToken) -> bool:
        """Emit the text that can be shown now; whether a stop text is reached."""
        self._waiting.append((self._num_written, token))
        self._show(self._pieces.add(token.id))
        return self._stops.is_reached

    def ended(self, reason: EndReason, num_tokens: int) -> None:
        """Emit the rest."""
        text = "" if self._stops.is_reached else self._stops.add(self._pieces.rest())
        if not self._stops.is_reached:
            text += self._stops.rest()
        self._num_shown += len(text)
        tokens = self._shown() if self._stops.is_reached else tuple(token for _, token in self._waiting)
        self._emit(TextPart(text, tokens, "stop" if self._stops.is_reached else reason, num_tokens))

    def failed(self, error: Exception) -> None:
        """Emit the error."""
        self._emit(error)

    def _show(self, piece: str) -> None:
        self._num_written += len(piece)
        text = self._stops.add(piece)
        self._num_shown += len(text)
        if text:
            self._emit(TextPart(text, self._shown()))

    def _shown(self) -> tuple[DrawnToken, ...]:
        """The tokens whose text has begun to be shown, and that are waiting."""
        shown = tuple(token for start, token in self._waiting if start < self._num_shown)
        self._waiting = [(start, token) for start, token in self._waiting if start >= self._num_shown]
        return shown


def stream_answer(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampling: SamplingSection,
) -> Generator[str, None, None]:
    """The answer to `prompt` in pieces of text, with a seed from torch's global random state.

    The stop ids of model and tokenizer end it. The model runs in a thread; closing the generator ends it within a
    token. Raises whatever error ends the answer.
    """
    parts: SimpleQueue[TextPart | Exception] = SimpleQueue()
    seed = int(torch.randint(2**62, (1,)))
    sample = Sample(prompt, DrawRules(sampling), TextListener(tokenizer, parts.put), seed=(seed,))
    writer = ContinuousWriter(model, stop_ids_of(model, tokenizer))
    try:
        writer.submit([sample])
        reason: EndReason | None = None
        while reason is None:
            part = parts.get()
            if isinstance(part, Exception):
                raise part
            reason = part.reason
            if part.text:
                yield part.text
    finally:
        writer.close()


def byte_reader(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """What gives the bytes of a token: of half a character too, and none for ids that no text has."""
    added = {token: one.content for token, one in tokenizer.added_tokens_decoder.items()}
    bytes_of = {character: byte for byte, character in enumerate(_BYTE_LEVEL)}

    def read(token: int) -> bytes:
        text = tokenizer.convert_ids_to_tokens(token)
        if token in added or not isinstance(text, str):
            return added.get(token, "").encode()
        if is_byte_level and all(character in bytes_of for character in text):
            return bytes(bytes_of[character] for character in text)
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
            return bytes.fromhex(byte[1])
        return text.replace(_SPACE, " ").encode()

    is_byte_level = "ByteLevel" in str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
    return read
