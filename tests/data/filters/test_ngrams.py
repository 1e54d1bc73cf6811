import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zephyr.data.filters.ngrams import ngram_hashes, word_hashes, words


def test_case_punctuation_and_apostrophes_do_not_count():
    assert words("Don't stop -- the ROCK\u2019n\u2019roll!") == ["dont", "stop", "the", "rocknroll"]


def test_width_of_characters_does_not_count():
    assert words("\uff21\uff22\uff23 \uff11\uff12") == ["abc", "12"]


def test_characters_of_unspaced_scripts_are_words():
    assert words("我喜欢Python 3") == ["我", "喜", "欢", "python", "3"]


def test_text_without_words_has_none():
    assert words("... !? _") == []
    assert len(word_hashes("")) == 0


def test_ngrams_are_counted_and_know_their_order():
    hashes = word_hashes("a b c a b")
    assert len(ngram_hashes(hashes, 2)) == 4
    first, second, third, fourth = ngram_hashes(hashes, 2)
    assert first == fourth
    assert len({first, second, third}) == 3
    assert ngram_hashes(word_hashes("b a"), 2)[0] != first


def test_ngrams_longer_than_the_text_are_none():
    assert len(ngram_hashes(word_hashes("two words"), 3)) == 0
    assert len(ngram_hashes(word_hashes(""), 1)) == 0


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 6))
def test_equal_ngrams_are_those_of_equal_words(letters, ngram):
    hashes = ngram_hashes(word_hashes(" ".join(letters)), ngram)
    grams = [tuple(letters[place : place + ngram]) for place in range(len(letters) - ngram + 1)]
    assert len(hashes) == len(grams)
    assert len(set(hashes.tolist())) == len(set(grams))


def test_hashes_are_the_same_in_every_process():
    program = "from zephyr.data.filters.ngrams import *; print(ngram_hashes(word_hashes('the same words'), 3)[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert np.uint64(int(done.stdout)) == ngram_hashes(word_hashes("the same words"), 3)[0]
