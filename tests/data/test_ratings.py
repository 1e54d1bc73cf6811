import gzip
import json

import pytest

from zephyr.data.ratings import ScoreRepair, Tone, mean_rating, repair_overall_score, stated_rating, tone_of


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


@pytest.mark.parametrize(
    ("ratings", "score", "needs_judge"),
    [
        ((1, 1, 1, 1), 1.0, False),
        ((2, 2, 2, 2), 1.0, False),  # up to 2 it was a 1
        ((2, 2, 2, 3), None, True),  # 2.25
        ((4, 4, 4, 4), None, True),  # up to 4 nobody knows
        ((4, 4, 4, 5), 10.0, False),  # 4.25
        ((5, None, 5, 5), 10.0, False),  # N/A does not count
        ((None, 1, None, 2), 1.0, False),  # 1.5
    ],
)
def test_a_ten_is_repaired_by_the_mean_of_its_ratings(ratings, score, needs_judge):
    assert repair_overall_score(10, ratings) == ScoreRepair(score, needs_judge)


@pytest.mark.parametrize("score", [None, 1.0, 7.5, 9.0])
def test_other_scores_stay_whatever_the_ratings(score):
    assert repair_overall_score(score, (1, 1, 1, 1)) == ScoreRepair(score, needs_judge=False)


def test_a_ten_without_ratings_needs_a_judge():
    assert repair_overall_score(10.0, (None, None)) == ScoreRepair(None, needs_judge=True)


def test_mean_leaves_out_what_is_no_number():
    assert mean_rating((1.0, None, float("nan"), 4.0)) == 2.5
    assert mean_rating(()) is None
