"""Binarizing: hand-worked rows by every rule, and accounts in which every prompt appears once."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zephyr.feedback.binarize import binarize, gather, repair_where_published
from zephyr.recipe.feedback_section import BinarizeSection
from zephyr.records.formats import record_of
from zephyr.records.messages import Message
from zephyr.records.reading import read_rows
from zephyr.records.rows import Answer, Rated, prompt_id


def rated(*scores: float | None, name: str = "q") -> Rated:
    """A prompt whose answers "0", "1", ... have these overall scores."""
    answers = tuple(Answer(str(number), score=score) for number, score in enumerate(scores))
    return Rated(f"{name} row", (Message("user", name),), answers, "s")


def many(*scores: float | None, count: int = 400) -> list[Rated]:
    return [rated(*scores, name=str(number)) for number in range(count)]


def pairs(row: Rated, **settings) -> list[tuple[str, str]]:
    return [preference.completions for preference in binarize([row], BinarizeSection(**settings)).rows]


# ---- which answers make a pair ----


def test_the_best_answer_is_chosen_and_the_row_carries_what_it_needs():
    made = binarize([rated(3, 9, 5)], BinarizeSection(rejected="next"))
    (row,) = made.rows
    assert row.completions == ("1", "2")
    assert row.ratings == (9, 5)
    assert (row.name, row.prompt, row.source) == ("q row", (Message("user", "q"),), "s")
    assert (row.rule, row.models) == (made.rule, ())
    assert made.rule == ("pairs chosen=overall min_gap=0 ties=drop rejected=next max_pairs=1 repair_overall=yes seed=0")
    assert (made.prompts, made.used, made.dropped, made.left_out) == (1, 1, {}, {})


def test_rejected_is_the_worst_or_the_next_of_the_lower_ones():
    row = rated(3, 9, 5, 9, 1)
    assert {pair[1] for pair in pairs(row, rejected="worst")} == {"4"}
    assert {pair[1] for pair in pairs(row, rejected="next")} == {"2"}
    worst = pairs(row, rejected="worst", max_pairs_per_prompt=2)
    assert [pair[1] for pair in worst] == ["4", "0"]
    assert [pair[1] for pair in pairs(row, rejected="next", max_pairs_per_prompt=9)] == ["2", "0", "4"]
    assert len({pair[0] for pair in worst}) == 1


def test_zephyr_draws_the_rejected_one_evenly_from_all_lower_ones():
    made = binarize(many(2, 9, 5, 7), BinarizeSection())
    drawn = Counter(row.completions[1] for row in made.rows)
    assert {row.completions[0] for row in made.rows} == {"1"}
    # 133 of each expected, standard deviation 9.4.
    assert set(drawn) == {"0", "2", "3"}
    assert all(abs(count - 400 / 3) < 45 for count in drawn.values())


def test_chance_chooses_among_the_best():
    made = binarize(many(9, 2, 9), BinarizeSection())
    drawn = Counter(row.completions[0] for row in made.rows)
    assert set(drawn) == {"0", "2"}
    assert abs(drawn["0"] - 200) < 45
    assert {row.completions[1] for row in made.rows} == {"1"}


def test_ties_are_dropped_or_kept():
    assert pairs(rated(5, 5)) == []
    assert binarize([rated(5, 5)], BinarizeSection()).dropped == {"prompt with all ratings equal": 1}
    kept = pairs(rated(5, 5), ties="keep")
    assert sorted(kept[0]) == ["0", "1"]
    drawn = Counter(row.completions[1] for row in binarize(many(9, 9, 2), BinarizeSection(ties="keep")).rows)
    assert set(drawn) == {"0", "1", "2"}


def test_a_gap_can_be_asked_for():
    row = rated(9, 8.5, 8, 3)
    assert pairs(row, rejected="next", min_gap=1.0) == [("0", "2")]
    assert pairs(row, rejected="next", min_gap=2.0) == [("0", "3")]
    assert pairs(row, min_gap=7.0) == []
    assert binarize([row], BinarizeSection(min_gap=7.0)).dropped == {"prompt with all gaps below min_gap": 1}
    assert pairs(rated(5, 5), ties="keep", min_gap=0.5) == []


def test_the_models_stand_in_the_order_of_their_answers():
    answers = (Answer("a", "small", 1.0), Answer("b", "big", 9.0), Answer("c", "", 5.0))
    row = Rated("r", (Message("user", "q"),), answers)
    assert binarize([row], BinarizeSection(output="listwise")).rows[0].models == ("big", "", "small")
    assert binarize([row], BinarizeSection(rejected="worst")).rows[0].models == ("big", "small")
    labels = binarize([row], BinarizeSection(output="kto")).rows
    assert {one.completions[0]: one.models for one in labels} == {"a": ("small",), "b": ("big",), "c": ()}


# ---- by which score ----


def with_ratings() -> Rated:
    answers = (
        Answer("a", score=9.0, ratings={"helpfulness": 1.0, "honesty": None, "truthfulness": 2.0}),
        Answer("b", score=2.0, ratings={"helpfulness": 5.0, "honesty": 1.0, "truthfulness": 1.0}),
        Answer("c", score=5.0, ratings={"helpfulness": 3.0, "honesty": 5.0}),
    )
    return Rated("r", (Message("user", "q"),), answers)


@pytest.mark.parametrize(
    ("chosen", "completions", "ratings"),
    [
        ("overall", ("a", "c", "b"), (9.0, 5.0, 2.0)),
        ("mean", ("c", "b", "a"), (4.0, 7 / 3, 1.5)),  # N/A and missing ratings do not count
        ("helpfulness", ("b", "c", "a"), (5.0, 3.0, 1.0)),
        ("honesty", ("c", "b"), (5.0, 1.0)),
        ("truthfulness", ("a", "b"), (2.0, 1.0)),
    ],
)
def test_chosen_by_overall_mean_or_an_aspect(chosen, completions, ratings):
    made = binarize([with_ratings()], BinarizeSection(output="listwise", chosen=chosen))
    assert made.rows[0].completions == completions
    assert made.rows[0].ratings == pytest.approx(ratings)
    assert made.left_out == ({} if len(completions) == 3 else {"answer without a score": 1})


def ten(mean: float | None) -> Answer:
    ratings = {} if mean is None else {"helpfulness": mean, "honesty": None}
    return Answer(f"ten {mean}", score=10.0, ratings=ratings)


def test_a_ten_that_was_a_one_is_repaired():
    row = Rated("r", (Message("user", "q"),), (ten(1.5), ten(3.0), ten(5.0), Answer("six", score=6.0)))
    made = binarize([row], BinarizeSection(output="listwise"))
    assert made.rows[0].completions == ("ten 5.0", "six", "ten 1.5")
    assert made.rows[0].ratings == (10.0, 6.0, 1.0)
    assert made.left_out == {"answer with an overall 10 in doubt": 1}
    as_published = binarize([row], BinarizeSection(output="listwise", ties="keep", repair_overall=False))
    assert as_published.rows[0].ratings == (10.0, 10.0, 10.0, 6.0)


def test_a_ten_without_ratings_is_left_as_it_is():
    row = Rated("r", (Message("user", "q"),), (ten(None), Answer("six", score=6.0)))
    assert pairs(row) == [("ten None", "six")]


# ---- lists and labels ----


def test_a_list_is_best_first_and_ties_leave_one():
    row = rated(3, 9, 5, 9, 5)
    made = binarize([row], BinarizeSection(output="listwise"))
    assert made.rows[0].ratings == (9, 5, 3)
    kept = binarize([row], BinarizeSection(output="listwise", ties="keep")).rows[0]
    assert kept.ratings == (9, 9, 5, 5, 3)
    assert sorted(kept.completions) == ["0", "1", "2", "3", "4"]
    assert binarize([rated(4, 4)], BinarizeSection(output="listwise")).dropped == {"prompt with all ratings equal": 1}
    assert binarize([row], BinarizeSection(output="listwise", min_gap=3)).rows[0].ratings == (9, 5)


def test_labels_are_one_row_an_answer():
    made = binarize([rated(5, 4.9, None), rated(None, name="other")], BinarizeSection(output="kto"))
    assert {row.completions[0]: row.ratings for row in made.rows} == {"0": (1.0,), "1": (0.0,)}
    assert (made.used, made.dropped, made.left_out) == (
        1,
        {"prompt without a rated answer": 1},
        {"answer without a score": 2},
    )
    assert made.rule == "kto chosen=overall threshold=5 repair_overall=yes seed=0"


# ---- what is left out ----


def test_what_cannot_take_part_is_counted():
    answers = (
        Answer("same", score=3.0),
        Answer(" same\n", score=9.0),
        Answer("", score=1.0),
        Answer("  ", score=1.0),
        Answer("x"),
        Answer("y", score=float("nan")),
    )
    made = binarize([Rated("r", (Message("user", "q"),), answers)], BinarizeSection())
    assert not made.rows
    assert made.dropped == {"prompt with fewer than two rated answers": 1}
    assert made.left_out == {"repeated answer": 1, "empty answer": 2, "answer without a score": 2}


SCORES = st.lists(st.one_of(st.none(), st.integers(1, 10).map(float)), max_size=5)


@given(
    st.lists(SCORES, max_size=8),
    st.sampled_from(["pairs", "listwise", "kto"]),
    st.sampled_from(["random", "worst", "next"]),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from([0.0, 1.0, 3.5]),
    st.integers(1, 3),
)
def test_accounts_and_order(scores, output, rejected, ties, min_gap, most):
    rows = [rated(*some, name=str(number)) for number, some in enumerate(scores)]
    settings = BinarizeSection(output=output, rejected=rejected, ties=ties, min_gap=min_gap, max_pairs_per_prompt=most)
    made = binarize(rows, settings)
    assert made.prompts == len(rows) == made.used + made.dropped.total()
    assert made.used == len({row.name for row in made.rows})
    assert made.left_out.total() == sum(score is None for some in scores for score in some)
    for _, group in groupby(made.rows, lambda row: row.name):
        of_prompt = list(group)
        if output == "pairs":
            assert len({row.completions for row in of_prompt}) == len(of_prompt) <= most
        for row in of_prompt:
            assert len(set(row.completions)) == len(row.completions) == len(row.ratings)
            gaps = [high - low for high, low in zip(row.ratings, row.ratings[1:], strict=False)]
            assert all(gap >= min_gap and (gap > 0 or ties == "keep") for gap in gaps)
    # A prompt's rows depend on nothing but the prompt.
    assert set(binarize(rows[::-1], settings).rows) == set(made.rows)


def test_only_ultrafeedbacks_own_ratings_are_repaired():
    section = BinarizeSection()
    assert repair_where_published(section, ["rated", "ultrafeedback"]).repair_overall
    assert not repair_where_published(section, ["rated"]).repair_overall
    assert not repair_where_published(BinarizeSection(repair_overall=False), ["ultrafeedback"]).repair_overall


# ---- recorded ratings of others ----


def test_rows_of_one_answer_are_gathered_by_prompt():
    rows = [rated(1, name="a"), rated(2, name="b"), rated(3, name="a")]
    first, second = gather(rows)
    assert [answer.score for answer in first.answers] == [1, 3]
    assert second == rows[1]
    assert first.name == "a row"


@pytest.fixture(scope="module")
def arena(shared_data) -> list[Rated]:
    path = shared_data / "pref" / "arena_bench_v1.jsonl.gz"
    return gather(record_of(row, "rated", "rated") for row in read_rows(path))


def test_arena_bench_makes_pairs_by_zephyrs_rule(arena):
    assert len(arena) == 300
    assert {len(row.answers) for row in arena} == {11}
    made = binarize(arena, BinarizeSection())
    assert made.prompts == 300 == made.used + made.dropped.total()
    assert made.left_out == {"answer without a score": 27, "empty answer": 1, "repeated answer": 1}
    assert len(made.rows) == made.used
    # Backwards, so that of equal texts the first one's score stays.
    answers = {prompt_id(row.prompt): {one.text: one.score for one in row.answers[::-1]} for row in arena}
    for row in made.rows:
        scores = answers[prompt_id(row.prompt)]
        assert row.ratings == (scores[row.completions[0]], scores[row.completions[1]])
        assert row.ratings[0] == max(score for score in scores.values() if score is not None) > row.ratings[1]


def test_arena_bench_makes_lists_and_labels(arena):
    lists = binarize(arena, BinarizeSection(output="listwise", ties="keep"))
    assert lists.used == 300
    assert sum(len(row.completions) for row in lists.rows) == 3300 - 27 - 1 - 1
    labels = binarize(arena, BinarizeSection(output="kto"))
    assert len(labels.rows) == 3300 - 27 - 1 - 1
    good = sum(answer.score is not None and answer.score >= 5 for row in arena for answer in row.answers)
    assert sum(row.ratings[0] for row in labels.rows) in {good, good - 1}
