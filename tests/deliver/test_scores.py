"""Scores in words: equal decimals, gains with intervals, and a verdict that claims no more than they allow."""

import pytest

from zephyr.deliver.run_facts import ModelScore
from zephyr.deliver.scores import score_groups, verdict_of
from zephyr.intervals import Estimate, difference


def share(model, value, low, high):
    return ModelScore(model, "the world", "share of right answers", value, low, high, 600)


def test_a_difference_spans_what_both_intervals_allow():
    """0.5 within 0.47 to 0.54, less 0.4 within 0.36 to 0.43: 0.1 less hypot(0.03, 0.03), more hypot(0.04, 0.04)."""
    gain = difference(Estimate(0.5, 0.47, 0.54, 10), Estimate(0.4, 0.36, 0.43, 20))
    assert gain == pytest.approx((0.1, 0.1 - 0.03 * 2**0.5, 0.1 + 0.04 * 2**0.5, 10))


def test_a_clear_gain_is_told_with_its_interval_and_what_was_before():
    scores = [share("base", 0.01, 0.0, 0.02), share("dSFT", 0.4, 0.36, 0.44), share("dDPO", 0.5, 0.46, 0.54)]
    found = verdict_of(scores, "dDPO")
    assert found.sentence == (
        "dDPO scores 50.0% on the world (share of right answers, n = 600): "
        "10.0 points more (95 % interval +4.3 to +15.7) than dSFT."
    )
    assert found.rest == ["dSFT scores 40.0%, base scores 1.0%."]
    assert found.tiles[0] == ("Gain", "+10.0 points", "over dSFT; 95 % interval +4.3 to +15.7")


def test_a_gain_within_chance_is_no_clear_difference():
    scores = [share("dSFT", 0.4, 0.36, 0.44), share("dDPO", 0.42, 0.38, 0.46)]
    assert "no clear difference (95 % interval -3.7 to +7.7) from dSFT" in verdict_of(scores, "dDPO").sentence


def test_several_benchmarks_are_counted_and_a_fall_is_told():
    marks = [
        ModelScore(model, bench, "mark", value, value - 0.1, value + 0.1, 80)
        for bench, values in (("one", (7.0, 6.5)), ("two", (3.0, 4.0)), ("three", (5.0, 5.05)))
        for model, value in zip(("dSFT", "dDPO"), values, strict=True)
    ]
    found = verdict_of(marks, "dDPO")
    assert "0.50 less (95 % interval -0.64 to -0.36) than dSFT" in found.sentence
    assert found.rest[-1] == "Of 3 measurements beside dSFT, 1 rose, 1 fell, 1 did not clearly change."


def test_where_less_is_better_that_is_said():
    scores = [ModelScore(name, "dialogues", "perplexity", value) for name, value in (("dSFT", 3.5), ("dDPO", 3.25))]
    assert "0.25 less, where less is better than dSFT" in verdict_of(scores, "dDPO").sentence.replace(", than", " than")


def test_what_was_not_measured_is_said():
    assert verdict_of([], "dDPO").sentence == "dDPO was not measured."
    assert verdict_of([share("dDPO", 0.5, 0.4, 0.6)], "dDPO").sentence.endswith("(share of right answers, n = 600).")


def test_numbers_of_a_group_have_as_many_decimals():
    """A standard error makes an interval too: 52 less and more 1.96 x 1.5."""
    scores = [
        ModelScore("a", "bench", "exact_match", 9.5, None, None, 100, 0.5),
        ModelScore("b", "bench", "exact_match", 52.0, None, None, 100, 1.5),
    ]
    (group,) = score_groups(scores)
    assert [row.score for row in group.rows] == ["9.5", "52.0"]
    assert [row.interval for row in group.rows] == ["8.5 to 10.5", "49.1 to 54.9"]
    assert group.rows[1].gain == "+42.5 (+39.4 to +45.6)"
    assert [row.n for row in group.rows] == ["100", "100"]
