"""Texts as words and as hashes of words in a row: what duplicates and overlaps with benchmarks are found by.

Case, punctuation, apostrophes and the width of characters do not count; a Chinese, Japanese or Korean character is a
word of its own, because those scripts put no spaces between words. Hashes are the same on every machine and day.
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
# Odd, with no pattern in its bits: the next word's place in the sum of a row of words.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of `text` in their order, in lower case and without apostrophes."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES))


@lru_cache(maxsize=1 << 18)
def _hash_of(word: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(blake2b(word.encode(errors="replace"), digest_size=8).digest(), "little")


def word_hashes(text: str) -> Hashes:
    """One hash of 64 bits for each word of `text`, in their order."""
    found = words(text)
    return np.fromiter(map(_hash_of, found), dtype=np.uint64, count=len(found))


def ngram_hashes(hashes: Hashes, ngram: int) -> Hashes:
    """One hash for each `ngram` words in a row; empty where there are fewer words."""
    windows = max(len(hashes) - ngram + 1, 0)
    mixed = np.zeros(windows, dtype=np.uint64)
    for offset in range(ngram if windows else 0):
        mixed = mixed * _MULTIPLIER + hashes[offset : offset + windows]
    return mixed
