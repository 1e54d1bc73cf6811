"""Replies to the published judge prompts, with the vectors of their own parsers."""

import math

import pytest

from zephyr.judging.verdicts import published_score, published_winner, ranked_preference, token_preference


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [8]", 8.0),
        ("[[5]] then [[9]]", 5.0),
        ("Rating: 8", None),
        ("[[10/10]]", None),
        ("[[8]].", 8.0),
        ("[3] first, then [[9]]", 9.0),
        ("[[12]]", 12.0),  # held to no scale
        ("", None),
    ],
)
def test_scores_as_fastchat_reads_them(reply, score):
    assert published_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ("So [[A]]", "first"),
        ("So [[B]]", "second"),
        ("[[C]]", "tie"),
        ("[[B]] is wrong, [[A]]", "first"),  # A is looked for first, wherever it stands
        ("[[C]] or [[B]]", "second"),
        ("A", None),
    ],
)
def test_winners_as_fastchat_reads_them(reply, winner):
    assert published_winner(reply) == winner


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0),
        ("[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", 2.0),
        ("[{'model': 'model_1', 'rank': 3}]", None),
        ("[{'model': 'model_1', 'rank': '1'}]", None),
        ("[{'model': 'model_2', 'rank': 1}]", None),
        ("model_1", None),
        ("[" * 5000, None),
        ("{'model': 'model_1', 'rank': 1}", None),
        ("__import__('os').getcwd()", None),
        ("[" + "0," * 10_000 + "]", None),
    ],
)
def test_ranks_as_alpaca_eval_reads_them(reply, preference):
    assert ranked_preference(reply) == preference


def test_one_token_as_alpaca_eval_weighs_it():
    assert token_preference({"M": -0.017597131, "m": -4.048847}) == pytest.approx(1.982558, abs=1e-6)
    assert token_preference({"M": -0.5, " the": -2.0}) == 2.0
    assert token_preference({"m": -9.0}) == 1.0
    assert token_preference({"a": -0.1}) is None
    assert token_preference({"m": -math.inf}) is None
