import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.rows import chat, pair
from zephyr.data.filters.near_duplicates import (
    MISSED_SHARE,
    NearDuplicates,
    SeenRows,
    banding,
    jaccard,
    normalized,
    shingles_of,
)
from zephyr.recipe.data_section import DuplicateFilter
from zephyr.records.rows import Text

NUMBERS = " ".join(str(number) for number in range(100))


def kept(texts, threshold):
    seen = SeenRows(DuplicateFilter(name="duplicates", threshold=threshold))
    return [place for place, text in enumerate(texts) if seen.judge(Text(f"row {place}", text)).record is not None]


def test_jaccard_by_hand():
    # Six words have two shingles of five; one changed at the end leaves one of three.
    one, other = shingles_of("a b c d e f"), shingles_of("a b c d e x")
    assert (len(one), len(other)) == (2, 2)
    assert jaccard(one, other) == pytest.approx(1 / 3)
    assert jaccard(one, one) == 1
    assert jaccard(shingles_of("a b"), shingles_of("a b")) == 0


def test_exact_duplicates_differ_in_nothing_visible():
    texts = ["Hello  there!", "hello there!", "\uff48ello\nthere!", "hello there", "2 + 2", "2 - 2"]
    assert kept(texts, 1) == [0, 3, 4, 5]


def test_near_duplicates_share_most_of_their_shingles():
    one_word_changed = NUMBERS.replace(" 50 ", " fifty ")  # 5 of 96 shingles: similarity 91 / 101
    far = " ".join(reversed(NUMBERS.split()))
    assert kept([NUMBERS, one_word_changed, far], 0.9) == [0, 2]
    assert kept([NUMBERS, one_word_changed, far], 0.91) == [0, 1, 2]
    assert kept([NUMBERS, one_word_changed, far], 1) == [0, 1, 2]


def test_first_row_stays_and_is_named():
    seen = SeenRows(DuplicateFilter(name="duplicates", threshold=0.8))
    assert seen.judge(chat("Count.", NUMBERS, name="a.jsonl row 1")).record is not None
    equal = seen.judge(chat("count.", NUMBERS, name="b.jsonl row 2"))
    assert equal.reason == "equal to an earlier row"
    assert equal.evidence.startswith("a.jsonl row 1: ")
    near = seen.judge(chat("Count!", NUMBERS + " 100", name="b.jsonl row 3"))
    assert near.reason == "nearly equal to an earlier row"
    assert near.evidence.startswith("a.jsonl row 1: ")


def test_preferences_with_the_same_prompt_are_no_duplicates():
    seen = SeenRows(DuplicateFilter(name="duplicates", threshold=0.8))
    assert seen.judge(pair("Count.", NUMBERS, "no")).record is not None
    assert seen.judge(pair("Count.", " ".join(reversed(NUMBERS.split())), "no")).record is not None


WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=0, max_size=14).map(" ".join)


@given(st.lists(WORDS, max_size=12), st.sampled_from([0.3, 0.6, 0.8, 1.0]))
def test_kept_rows_are_a_subset_that_is_kept_again(texts, threshold):
    places = kept(texts, threshold)
    assert kept([texts[place] for place in places], threshold) == list(range(len(places)))
    # What comes later changes nothing of what was kept before.
    for end in range(len(texts)):
        assert kept(texts[:end], threshold) == [place for place in places if place < end]


@given(st.lists(WORDS, max_size=12), st.sampled_from([0.3, 0.6, 0.8]))
def test_nothing_is_dropped_without_a_kept_row_as_similar(texts, threshold):
    places = kept(texts, threshold)
    for place in set(range(len(texts))) - set(places):
        earlier = [texts[first] for first in places if first < place]
        assert any(
            normalized(text) == normalized(texts[place])
            or jaccard(shingles_of(text), shingles_of(texts[place])) >= threshold
            for text in earlier
        )


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_find_what_the_threshold_asks_for(threshold):
    bands, width = banding(threshold)
    assert (1 - threshold**width) ** bands <= MISSED_SHARE


def test_bands_at_the_default_threshold():
    assert banding(0.8) == (12, 5)


def test_few_pairs_at_the_threshold_go_unseen():
    missed = 0
    for number in range(300):
        words = [f"{number}w{place}" for place in range(104)]
        # 10 shingles of 100 lost and 10 gained: similarity 90 / 110 = 0.82.
        changed = [*words[:50], "x", *words[51:57], "y", *words[58:]]
        near = NearDuplicates(0.8)
        assert near.find_or_add("first", " ".join(words)) is None
        changed_text = " ".join(changed)
        assert jaccard(shingles_of(" ".join(words)), shingles_of(changed_text)) == pytest.approx(90 / 110)
        missed += near.find_or_add("second", changed_text) is None
    assert missed <= 6


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_threshold_is_a_similarity(threshold):
    with pytest.raises(ValueError, match=r"threshold\n  Input should be"):
        DuplicateFilter(name="duplicates", threshold=threshold)


def test_repeated_instructions_of_a_real_set_are_found(shared_data):
    rows = json.loads((shared_data / "sft/llama_factory/alpaca_en_demo.json").read_text())
    exact = [place for place, row in enumerate(rows) if row["instruction"] in {r["instruction"] for r in rows[:place]}]
    texts = [row["instruction"] for row in rows]
    found = set(range(len(rows))) - set(kept(texts, 1))
    assert set(exact) <= found
    assert len(found) - len(exact) <= 2  # more only by case or spaces
