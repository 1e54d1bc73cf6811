"""Principles: the published shares, drawn as often as they say."""

from collections import Counter

import pytest

from zephyr.feedback.principles import MIXTURES, draw_principle, sentences, without_example
from zephyr.feedback.principles import shares_for as shares_of_section
from zephyr.recipe.feedback_section import CandidatesSection


def shares_for(mixture, source):
    return shares_of_section(CandidatesSection(principles=mixture), source)


HONEST, TRUE, USEFUL, SURE = "honesty", "truthfulness", "helpfulness", "calibration"


def test_there_are_as_many_sentences_as_published_and_none_twice():
    counts = {name: len(texts) for name, texts in sentences().items()}
    assert counts == {USEFUL: 11, HONEST: 11, TRUE: 11, SURE: 1}
    every = [text for texts in sentences().values() for text in texts]
    assert len(set(every)) == 34
    assert all(text == text.strip() and text.endswith((".", '"')) for text in every)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("source", ["evol_instruct", "false_qa", "truthful_qa", "flan_v2_niv2", "sharegpt", "other"])
def test_shares_add_up(mixture, source):
    shares = shares_for(mixture, source)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.keys() <= sentences().keys()


def test_the_two_published_mixtures():
    assert shares_for("readme", "evol_instruct") == shares_for("code", "evol_instruct") == {USEFUL: 1}
    assert shares_for("readme", "false_qa") == shares_for("readme", "truthful_qa") == {TRUE: 1}
    assert shares_for("code", "false_qa") == {TRUE: 0.5, HONEST: 0.45, SURE: 0.05}
    assert shares_for("readme", "flan_v2_cot") == {USEFUL: 0.6, TRUE: 0.2, SURE: 0.2}
    assert shares_for("code", "flan_v2_cot") == {USEFUL: 0.8, SURE: 0.2}
    general = {USEFUL: 0.6, TRUE: 0.2, HONEST: 0.18, SURE: 0.02}
    assert shares_for("readme", "ultrachat") == shares_for("code", "sharegpt") == general


def test_without_a_mixture_there_are_no_shares():
    assert shares_for("none", "flan") is None


def test_principles_are_drawn_by_their_shares_and_sentences_evenly():
    drawn = [draw_principle({USEFUL: 0.6, TRUE: 0.2, SURE: 0.2}, seed=seed) for seed in range(5_000)]
    names = Counter(principle.name for principle in drawn)
    # Standard deviations 35 and 28.
    assert abs(names[USEFUL] - 3_000) < 140
    assert abs(names[TRUE] - 1_000) < 115
    useful = Counter(principle.sentence for principle in drawn if principle.name == USEFUL)
    assert set(useful) == set(sentences()[USEFUL])
    assert all(abs(count - 3_000 / 11) < 75 for count in useful.values())
    assert draw_principle({TRUE: 1}, seed=7) == draw_principle({TRUE: 1}, seed=7)


def test_a_judge_is_not_told_the_example():
    (calibration,) = sentences()[SURE]
    assert "For instance" in calibration
    assert without_example(calibration) == calibration[: calibration.index(" For instance")]
    assert without_example("Be kind.") == "Be kind."
