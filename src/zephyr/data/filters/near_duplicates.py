"""Exact and near duplicates in a stream of rows, found in one pass; the first row is kept.

A text is the set of its word 5-grams. Two texts are near duplicates if the Jaccard similarity of their sets reaches the
threshold. MinHash with banding (LSH) selects the earlier texts to compare with, and those are compared exactly, so
nothing is dropped on an estimate. Of duplicates at the threshold at most 1% are missed, of closer ones fewer.
"""

import math
import unicodedata
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zephyr.data.filters.ngrams import Hashes, ngram_hashes, word_hashes
from zephyr.data.filters.row_filter import Verdict, all_texts
from zephyr.recipe.data_section import DuplicateFilter
from zephyr.records.rows import Record

Shingles = NDArray[np.uint32]

SHINGLE_WORDS = 5
MISSED_SHARE = 0.01
MOST_HASHES = 128
WIDEST_BAND = 5
_CHUNK = 4096


class Banding(NamedTuple):
    """How a MinHash signature is cut into bands: texts are compared if all hashes of one band agree."""

    bands: int
    width: int


class SeenRows:
    """The rows seen so far, to find those equal to one of them, or at least as similar as the section's threshold."""

    def __init__(self, section: DuplicateFilter) -> None:
        self._first_of: dict[bytes, str] = {}
        self._near = NearDuplicates(section.threshold) if section.threshold < 1 else None

    def judge(self, record: Record) -> Verdict:
        """`record`, dropped if it is a duplicate of an earlier row."""
        text = "\n".join(all_texts(record))
        exact = blake2b(normalized(text).encode(errors="replace"), digest_size=16).digest()
        first = self._first_of.get(exact)
        if first is not None:
            return Verdict(None, "equal to an earlier row", f"{first}: {text}")
        self._first_of[exact] = record.name
        near = self._near.find_or_add(record.name, text) if self._near else None
        if near is not None:
            return Verdict(None, "nearly equal to an earlier row", f"{near}: {text}")
        return Verdict(record)


class NearDuplicates:
    """An index of the texts seen so far, searched by similarity; about 3 KB for a text of 1,000 characters.

    Broder 1997, "On the resemblance and containment of documents"; Leskovec et al., "Mining of Massive Datasets", 3.4.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._banding = banding(threshold)
        bands, width = self._banding
        generator = np.random.Generator(np.random.PCG64(0))
        # Multiply-shift: an odd factor and a summand of 64 bits each, of whose result the upper half is used.
        self._factors = generator.integers(0, 1 << 64, (bands * width, 1), dtype=np.uint64) | np.uint64(1)
        self._summands = generator.integers(0, 1 << 64, (bands * width, 1), dtype=np.uint64)
        # Different for each band, so that one table serves all of them.
        self._mixers = generator.integers(0, 1 << 64, (bands, width), dtype=np.uint64) | np.uint64(1)
        self._seen: list[tuple[str, Shingles]] = []
        # Most bands belong to one text, which is stored without a tuple: half the memory.
        self._rows_of_band: dict[int, int | tuple[int, ...]] = {}

    def find_or_add(self, name: str, text: str) -> str | None:
        """The name of the first text that reaches the threshold; without one, None, and `text` is added."""
        shingles = shingles_of(text)
        if not len(shingles):
            return None
        keys = self._band_keys(shingles)
        for row in sorted({row for key in keys for row in self._rows(key)}):
            seen_name, seen = self._seen[row]
            if jaccard(shingles, seen) >= self._threshold:
                return seen_name
        number = len(self._seen)
        for key in keys:
            rows = self._rows(key)
            self._rows_of_band[key] = (*rows, number) if rows else number
        self._seen.append((name, shingles))
        return None

    def _rows(self, key: int) -> tuple[int, ...]:
        rows = self._rows_of_band.get(key, ())
        return (rows,) if isinstance(rows, int) else rows

    def _band_keys(self, shingles: Shingles) -> list[int]:
        wide = shingles.astype(np.uint64)
        smallest = [
            ((self._factors * wide[start : start + _CHUNK] + self._summands) >> np.uint64(32)).min(axis=1)
            for start in range(0, len(wide), _CHUNK)
        ]
        signature: Hashes = np.min(smallest, axis=0)
        keys: list[int] = (signature.reshape(self._banding) * self._mixers).sum(axis=1).tolist()
        return keys


def banding(threshold: float) -> Banding:
    """The widest bands that miss at most `MISSED_SHARE` of the pairs whose similarity is `threshold`.

    Raises ValueError for a threshold of 1, which needs no bands.
    """
    for width in range(WIDEST_BAND, 0, -1):
        bands = math.ceil(math.log(MISSED_SHARE) / math.log1p(-(threshold**width)))
        if bands * width <= MOST_HASHES or width == 1:
            return Banding(bands, width)
    raise AssertionError("the loop ends at width 1")


def normalized(text: str) -> str:
    """`text` without invisible differences: case, width of characters, number and kind of spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles_of(text: str, ngram: int = SHINGLE_WORDS) -> Shingles:
    """The distinct word n-grams of `text` as sorted hashes, (shingles,)."""
    # Of 32 bits: enough to tell the shingles of two texts apart, and half the memory.
    return np.unique((ngram_hashes(word_hashes(text), ngram) >> np.uint64(32)).astype(np.uint32))


def jaccard(first: Shingles, second: Shingles) -> float:
    """The Jaccard similarity of two sets of sorted, distinct hashes, (n,) and (m,); 0 if both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0
