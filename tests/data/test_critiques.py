import gzip
import json

import pytest

from zephyr.data.critiques import Tone, stated_rating, tone_of


@pytest.mark.parametrize(
    ("critique", "tone"),
    [
        ("The answer is accurate, clear and helpful.", Tone(0, 3)),
        ("The answer is incorrect, misleading and fails to follow.", Tone(3, 0)),
        ("It is not very helpful and could be more detailed.", Tone(0, 0)),  # taken back
        ("It is inaccurate.", Tone(1, 0)),  # a word within a word does not count
        ("", Tone(0, 0)),
    ],
)
def test_tone_counts_words(critique, tone):
    assert tone_of(critique) == tone


def test_tone_is_told_only_where_it_is_plain():
    assert Tone(3, 1).is_damning
    assert not Tone(2, 0).is_damning
    assert not Tone(3, 2).is_damning
    assert Tone(0, 3).is_praising
    assert not Tone(1, 9).is_praising


@pytest.mark.parametrize(
    ("critique", "rating"),
    [
        ("Fine. Rating: [[7]]", 7.0),
        ("Overall Score: 3", 3.0),
        ("Rating: 8.5/10", 8.5),
        ("First I thought [[3]], now [[4]].", 4.0),
        ("**Score**: 6", 6.0),
        ("Score: 80%", None),
        ("Rating: 4/5", None),  # of another scale
        ("A rating is hard.", None),
        ("It has 3 parts.", None),
    ],
)
def test_rating_is_the_last_one_stated(critique, rating):
    assert stated_rating(critique) == rating


def test_tone_agrees_with_the_ratings_of_a_real_judge(shared_data):
    with gzip.open(shared_data / "pref/arena_bench_v1.jsonl.gz", "rt") as file:
        judged = [row for row in map(json.loads, file) if row["score"] is not None]
    tones = [(row["score"], tone_of(row["rationale"])) for row in judged]
    assert len(tones) == 3273
    assert sum(tone.is_damning for score, tone in tones if score >= 8) == 0
    assert sum(tone.is_praising for score, tone in tones if score <= 3) == 0
    of_the_worst = [tone.is_damning for score, tone in tones if score == 1]
    assert sum(of_the_worst) > 0.5 * len(of_the_worst)
    # Where the text states a rating, it is the one that was recorded.
    stated = [(row["score"], stated_rating(row["rationale"])) for row in judged]
    assert sum(said is not None for _score, said in stated) > 3200
    assert [pair for pair in stated if pair[1] is not None and pair[0] != pair[1]] == []
