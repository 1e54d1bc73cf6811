"""Continuations in batches of shared prefixes: every batch within its budget, every score that of the scorer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zephyr.models.continuations import Continuation, plan_batches, score_continuations
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.trees.forest import ScoredSequence, all_scored, build_forest
from zephyr.trees.score import Head, predict_edges


def continuation(ids: list[int], num_scored: int) -> Continuation:
    return Continuation(np.asarray(ids, dtype=np.int64), num_scored)


@st.composite
def many(draw) -> list[Continuation]:
    ids = st.lists(st.integers(0, 2), min_size=2, max_size=9)
    return [continuation(one, draw(st.integers(1, len(one) - 1))) for one in draw(st.lists(ids, max_size=12))]


@given(many(), st.integers(1, 30))
def test_batches_hold_each_once_and_keep_the_budget(continuations: list[Continuation], max_tokens: int) -> None:
    batches = plan_batches(continuations, max_tokens=max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(continuations)))
    for batch in batches:
        fed = [all_scored(continuations[index].ids[:-1]) for index in batch]
        assert len(batch) == 1 or build_forest(fed).num_tokens <= max_tokens


def test_a_batch_is_cut_where_its_neighbours_share_least() -> None:
    contexts = [[10 + number] * 6 for number in range(4)]
    continuations = [continuation([*context, choice], 1) for context in contexts for choice in range(4)]
    # A context is 6 tokens for its four choices; 20 have room for three, 23 for three and a half of anybody's.
    assert [len(batch) for batch in plan_batches(continuations, max_tokens=23)] == [12, 4]


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "mamba"])
def test_scores_are_those_of_the_scorer(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    rng = np.random.default_rng(0)
    context = rng.integers(4, 128, size=20)
    continuations = [
        Continuation(np.concatenate([context[: rng.integers(1, 20)], rng.integers(4, 128, size=n)]), n)
        for n in (1, 1, 3, 7)
    ]
    continuations += continuations[:1]
    found = score_continuations(scorer, continuations)
    sequences = [ScoredSequence(ids, np.arange(len(ids)) >= len(ids) - n) for ids, n in continuations]
    wanted = scorer(build_forest(sequences)).logps.tolist()
    assert [one.logp for one in found] == pytest.approx(wanted, abs=1e-4)
    assert found[0] == found[-1]


def test_a_continuation_without_context_is_refused() -> None:
    with pytest.raises(ValueError, match="1 <= num_scored < 2"):
        score_continuations(ForestScorer(tiny_model("mistral")), [continuation([1, 2], 2)])


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_edges_are_predicted_as_by_the_definition(softcap: float | None, monkeypatch) -> None:
    hidden, weight = torch.randn(7, 8, dtype=torch.float64), torch.randn(11, 8, dtype=torch.float64)
    # Rows of logits that fit one chunk: two.
    monkeypatch.setattr("zephyr.trees.score.CHUNK_BYTES", {"cpu": 2 * 11 * 8})
    sources = torch.tensor([6, 0, 6, 3, 3, 3, 1])
    logits = hidden @ weight.T if softcap is None else softcap * torch.tanh(hidden @ weight.T / softcap)
    targets = torch.tensor([int(logits[6].argmax()), 4, 2, 0, int(logits[3].argmax()), 10, 5])
    found = predict_edges(hidden, Head(weight, softcap=softcap), sources, targets)
    torch.testing.assert_close(found.logps, logits.log_softmax(1)[sources, targets])
    assert found.is_best.tolist() == [bool(logits[s].argmax() == t) for s, t in zip(sources, targets, strict=True)]
