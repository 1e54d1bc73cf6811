"""Text as plain tokens: no text, whatever it contains, becomes a control token.

SentencePiece tokenizers put a dummy space before a text but not inside one, some also after a control token. What a
tokenizer does is found by trying.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from zephyr.data.tokenize.templates import control_pattern
from zephyr.errors import ModelError

TokenIds = npt.NDArray[np.int64]

# What precedes the text to encode: nothing, a control token, or other text.
TextPlace = Literal["start", "control", "text"]

# Characters that merge with no other, so that the text after them is tokenised as inside a text.
_ANCHORS = ("\x00", "\x01", "\n")
_PROBES = ("a", " a", "a b", "\n", "<|a|>\n", "7", ".")


class AddedToken(Protocol):
    """A token that the tokenizer matches before anything else."""

    @property
    def content(self) -> str:
        """Its text."""
        ...

    @property
    def special(self) -> bool:
        """Whether it is a control token."""
        ...

    @property
    def lstrip(self) -> bool:
        """Whether it removes white space before it."""
        ...

    @property
    def rstrip(self) -> bool:
        """Whether it removes white space after it."""
        ...


class Encoding(Protocol):
    """A tokenizer's result, by name."""

    def __getitem__(self, name: str, /) -> object: ...


class TextTokenizer(Protocol):
    """The part of transformers' fast tokenizers that is used here."""

    @property
    def bos_token(self) -> str | None: ...
    @property
    def eos_token(self) -> str | None: ...
    @property
    def unk_token(self) -> str | None: ...
    @property
    def all_special_ids(self) -> list[int]: ...
    @property
    def special_tokens_map(self) -> Mapping[str, object]: ...
    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...
    @property
    def chat_template(self) -> object: ...

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        split_special_tokens: bool,
        return_offsets_mapping: bool,
        verbose: bool,
    ) -> Encoding: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str | list[str]: ...


class Tokens(NamedTuple):
    """The ids of a text, (n,), and the start and end character of each, (n, 2)."""

    ids: TokenIds
    spans: TokenIds


class PlainText:
    """Encodes texts so that the result has no special token and none of `controls`, the texts of control tokens.

    Raises ModelError for a tokenizer that merges every text with what precedes it.
    """

    def __init__(self, tokenizer: TextTokenizer, controls: Collection[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {added[token].content: token for token in tokenizer.all_special_ids if token in added}
        # Text may become the unknown token.
        texts = {text: token for text, token in special.items() if text != tokenizer.unk_token}
        texts |= {control: self.control_id(control) for control in controls}
        self._forbidden = frozenset(texts.values())
        self._forbidden_text = control_pattern(texts)
        self._anchor, self._skipped = self._find_anchor()
        self.has_dummy_space = not np.array_equal(self._inside("a").ids, self._plain("a").ids)
        self._dummy_space_after_control = self._prefixes_after(next(iter(texts), ""))

    def control_id(self, control: str) -> int:
        """The id of the control token with this text. Raises ModelError if the tokenizer has none."""
        ids = self._call(control, split=False)
        if len(ids) != 1:
            raise ModelError(
                "chat template",
                f"needs the control token {control!r}, which the tokenizer does not have",
                "add it to the tokenizer as a special token, or choose another chat template",
            )
        return int(ids[0])

    def encode(self, text: str, place: TextPlace) -> Tokens:
        """The tokens of `text` after what `place` says. Raises ModelError if a control token cannot be avoided."""
        tokens = self._encode(text, place)
        if self._forbidden.isdisjoint(tokens.ids.tolist()):
            return tokens
        # Tokenizers match added tokens that are not marked as special even with split_special_tokens. Cut after their
        # first character, they no longer match.
        cuts = [0, *(found.start() + 1 for found in self._forbidden_text.finditer(text)), len(text)]
        parts = []
        for start, end in pairwise(cuts):
            part = self._encode(text[start:end], "text" if start else place)
            parts.append(part._replace(spans=part.spans + start))
        tokens = Tokens(np.concatenate([part.ids for part in parts]), np.concatenate([part.spans for part in parts]))
        if not self._forbidden.isdisjoint(tokens.ids.tolist()):
            raise ModelError(
                "tokenizer", f"makes a control token of a text ({text[:60]!r})", "mark its control tokens as special"
            )
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids from inside a text, without control tokens."""
        # The first token would lose its leading space. The letter before is not one of the anchors: half a character
        # after a single-byte token changes that token's text.
        before = self._plain("a").ids.tolist()
        texts = [self._tokenizer.decode(some, skip_special_tokens=True) for some in (before, [*before, *ids])]
        letter, whole = (text if isinstance(text, str) else "".join(text) for text in texts)
        assert whole.startswith(letter), (letter, whole)
        return whole[len(letter) :]

    def _encode(self, text: str, place: TextPlace) -> Tokens:
        prefixed = place == "start" or (place == "control" and self._dummy_space_after_control)
        return self._inside(text) if self.has_dummy_space and not prefixed else self._plain(text)

    def _plain(self, text: str) -> Tokens:
        found = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return Tokens(_array(found["input_ids"]), _array(found["offset_mapping"]).reshape(-1, 2))

    def _inside(self, text: str) -> Tokens:
        """The tokens of `text` without a dummy space before it."""
        tokens = self._plain(self._anchor + text)
        ids, spans = tokens.ids[self._skipped :], tokens.spans[self._skipped :] - len(self._anchor)
        return Tokens(ids, np.maximum(spans, 0))

    def _call(self, text: str, *, split: bool) -> TokenIds:
        found = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=split, return_offsets_mapping=False, verbose=False
        )
        return _array(found["input_ids"])

    def _find_anchor(self) -> tuple[str, int]:
        """A text that never merges with the text after it, and its number of tokens."""
        for anchor in _ANCHORS:
            alone = self._plain(anchor).ids
            after = [self._plain(anchor + probe).ids for probe in _PROBES]
            # Some tokenizers drop control characters: then nothing precedes the probe.
            seen = len(alone) and len(after[0]) > len(self._plain(_PROBES[0]).ids)
            if seen and all(np.array_equal(ids[: len(alone)], alone) for ids in after):
                return anchor, len(alone)
        raise ModelError(
            "tokenizer",
            "merges the start of every text with the token before it",
            "choose a byte-level or SentencePiece tokenizer",
        )

    def _prefixes_after(self, control: str) -> bool:
        """Whether text after a control token gets a dummy space, as with Llama tokenizers of 2023."""
        return bool(control) and np.array_equal(self._call(f"{control}a", split=False)[1:], self._plain("a").ids)


def _array(values: object) -> TokenIds:
    return np.asarray(values, dtype=np.int64)
