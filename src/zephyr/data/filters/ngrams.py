"""Texts as words and as hashes of word n-grams, for finding duplicates and overlap with benchmarks.

Case, punctuation, apostrophes and the width of characters are ignored; each Chinese, Japanese or Korean character is a
word, because those scripts have no spaces between words. Hashes are the same on every machine.
"""

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_APOSTROPHES = str.maketrans("", "", "'\u2019\u02bc\u2018`\u00b4")
# Odd and without a pattern in its bits: weights the words of an n-gram by position.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of `text` in their order, in lower case and without apostrophes."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES))


@lru_cache(maxsize=1 << 18)
def _hash_of(word: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(blake2b(word.encode(errors="replace"), digest_size=8).digest(), "little")


def word_hashes(text: str) -> Hashes:
    """A 64-bit hash of each word of `text`, (words,), in order."""
    found = words(text)
    return np.fromiter(map(_hash_of, found), dtype=np.uint64, count=len(found))


def ngram_hashes(hashes: Hashes, ngram: int) -> Hashes:
    """The hash of each n-gram of word hashes: (words,) to (max(words - ngram + 1, 0),)."""
    windows = max(len(hashes) - ngram + 1, 0)
    mixed = np.zeros(windows, dtype=np.uint64)
    for offset in range(ngram if windows else 0):
        mixed = mixed * _MULTIPLIER + hashes[offset : offset + windows]
    return mixed
