"""How similar a text is to each of many: ROUGE-L of all pairs at once, exact, and fast at 100,000 texts.

The longest common subsequence is computed by bits: a word of the new text is a bit, a text of the pool one machine
word, and a step of the recurrence takes the next word of all texts of about the same length together.
"""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Texts up to a width stand in one table, filled up with a word that no text has.
WIDTHS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
LISTED = 10

_NO_WORD = 0
_NOT_WORDS = re.compile(r"[^a-z0-9]+")
_Bits: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]


class Similar(NamedTuple):
    """A text of the pool, by its number in the order of adding, and its ROUGE-L F with the new one."""

    number: int
    score: float


class Comparison(NamedTuple):
    """What a text has in common with a pool: the most similar texts, best first, and the mean over all."""

    nearest: tuple[Similar, ...]
    mean: float

    @property
    def highest(self) -> float:
        """The similarity to the nearest text; 0 in an empty pool."""
        return self.nearest[0].score if self.nearest else 0.0


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE counts: runs of letters a-z and digits in lower case, without stemming.

    The tokenizer of the rouge-score package.
    """
    return _NOT_WORDS.sub(" ", text.lower()).split()


class NoveltyIndex:
    """A growing pool of texts to which new ones are compared."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._vocabulary: dict[str, int] = {}
        self._tables: dict[int, _Table] = {}
        self._num_texts = 0
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return self._num_texts

    def add(self, text: str) -> None:
        """Put a text into the pool; its number is how many were there before."""
        ids = [self._vocabulary.setdefault(word, len(self._vocabulary) + 1) for word in rouge_words(text)]
        width = _width_for(len(ids))
        if width not in self._tables:
            self._tables[width] = _Table(width)
        self._tables[width].add(ids, self._num_texts)
        self._num_texts += 1

    def compare(self, text: str) -> Comparison:
        """The ROUGE-L F of `text` with every text of the pool: the highest of them, and their mean.

        F is 2 LCS / (m + n) for m and n words, rounded once, so that 0.7 is exactly 0.7. ROUGE-L: Lin, 2004
        """
        if not self._num_texts:
            return Comparison((), 0.0)
        words = rouge_words(text)
        ids = [self._vocabulary.get(word, _NO_WORD) for word in words]
        masks = _masks(ids, len(self._vocabulary) + 1)
        scores = np.zeros(self._num_texts)
        for table in self._tables.values():
            lengths = table.lengths[: table.count]
            common = table.common_words(masks)
            # Two texts without a word have nothing in common, and nothing to divide by.
            scores[table.numbers[: table.count]] = 2 * common / np.maximum(lengths + len(words), 1)
        return Comparison(_nearest(scores), float(scores.mean()))


class _Table:
    """Texts of about the same length as the ids of their words: a row for each place, a column for each text."""

    def __init__(self, width: int) -> None:
        self.count = 0
        # Indices in the machine's own width: others would be converted in every comparison.
        self._ids = np.full((width, 64), _NO_WORD, dtype=np.intp)
        self.lengths = np.zeros(64, dtype=np.intp)
        self.numbers = np.zeros(64, dtype=np.intp)

    def add(self, ids: list[int], number: int) -> None:
        capacity = self.lengths.size
        if self.count == capacity:
            self._ids = np.pad(self._ids, ((0, 0), (0, capacity)), constant_values=_NO_WORD)
            self.lengths = np.pad(self.lengths, (0, capacity))
            self.numbers = np.pad(self.numbers, (0, capacity))
        self._ids[: len(ids), self.count] = ids
        self.lengths[self.count] = len(ids)
        self.numbers[self.count] = number
        self.count += 1

    def common_words(self, masks: list[_Bits]) -> NDArray[np.intp]:
        """The length of the longest common subsequence with every text (n,).

        The bit-vector recurrence of Crochemore and others, V' = (V + (V & M)) | (V & ~M), doi
        10.1016/S0020-0190(01)00182-X; a new text of more words than an integer has bits takes several, with carries.
        """
        blocks: list[_Bits] = [~np.zeros(self.count, mask.dtype) for mask in masks]
        matched, total = np.empty_like(blocks[0]), np.empty_like(blocks[0])
        for row in self._ids[:, : self.count]:
            carry: NDArray[np.bool_] | None = None
            for block, mask in zip(blocks, masks, strict=True):
                np.take(mask, row, out=matched, mode="clip")
                np.bitwise_and(block, matched, out=matched)
                np.add(block, matched, out=total)
                if len(masks) > 1:
                    carry = _carry(block, total, carry)
                np.subtract(block, matched, out=block)
                np.bitwise_or(block, total, out=block)
        # Every bit that was cleared is a word in common.
        common = np.zeros(self.count, dtype=np.intp)
        for block in blocks:
            common += _zero_bits(block)
        return common


def _carry(before: _Bits, total: _Bits, carried: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Where the sum overflows; `total` takes what the block before it carried over."""
    overflow = total < before
    if carried is not None:
        np.add(total, carried, out=total, casting="unsafe")
        overflow |= carried & (total == 0)
    return overflow


def _masks(ids: list[int], vocabulary: int) -> list[_Bits]:
    """For every word of the vocabulary the places where the new text has it, as bits; the narrowest that suffice."""
    bits = next((width for width in (16, 32) if len(ids) <= width), 64)
    dtype = np.dtype(f"uint{bits}")
    masks = [np.zeros(vocabulary, dtype) for _ in range(0, max(len(ids), 1), bits)]
    for place, word in enumerate(ids):
        if word != _NO_WORD:
            masks[place // bits][word] |= dtype.type(1 << place % bits)
    return masks


def _zero_bits(block: _Bits) -> NDArray[np.intp]:
    parts: NDArray[np.uint16] = block.view(np.uint16).reshape(block.size, -1)
    zeros: NDArray[np.intp] = _zeros_of_16_bits()[parts].sum(axis=1, dtype=np.intp)
    return zeros


@functools.cache
def _zeros_of_16_bits() -> NDArray[np.uint8]:
    numbers = np.arange(1 << 16, dtype=np.uint16)
    ones = np.unpackbits(numbers.view(np.uint8)).reshape(-1, 16).sum(axis=1)
    zeros: NDArray[np.uint8] = (16 - ones).astype(np.uint8)
    return zeros


def _nearest(scores: NDArray[np.float64]) -> tuple[Similar, ...]:
    """The highest scores, best first; of equal ones those of the earlier texts."""
    count = min(LISTED, scores.size)
    least = np.partition(scores, scores.size - count)[scores.size - count]
    # Of the lowest score taken there may be thousands, of those above it never more than asked for.
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    chosen = np.concatenate([above[np.argsort(-scores[above], kind="stable")], equal])[:count]
    return tuple(Similar(int(number), float(scores[number])) for number in chosen)


def _width_for(num_words: int) -> int:
    for width in WIDTHS:
        if num_words <= width:
            return width
    return 1 << (num_words - 1).bit_length()
