"""Laws of states that are carried over forks: every token computed once, and what each sequence alone gives."""

from copy import deepcopy

import pytest
import torch

from tests.models.architectures import small_model
from tests.models.scorer_runs import assert_same, by_transformers, company, packed
from zephyr.models.carried_state import Stretch, stretches
from zephyr.models.scorer import ForestScorer
from zephyr.trees.forest import all_scored, build_forest


def test_a_forest_is_cut_at_its_forks() -> None:
    """1 2 then 3 4 then 5, or 6; or after 1 2: 7. The first row goes on through both forks."""
    forest = build_forest([all_scored(ids) for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 7], [8])])
    assert forest.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert stretches(forest) == [
        Stretch(0, 2, -1, is_forked=True),
        Stretch(2, 4, 2, is_forked=True),
        Stretch(4, 5, 4, is_forked=False),
        Stretch(5, 6, 4, is_forked=False),
        Stretch(6, 7, 2, is_forked=False),
        Stretch(7, 8, -1, is_forked=False),
    ]


@pytest.mark.parametrize("name", ["lfm2", "mamba2", "qwen3_next"])
def test_a_carried_state_changes_nothing(name: str) -> None:
    """Qwen3-Next's rows round by where their chunks end: 2e-5 of the largest gradient."""
    model = small_model(name)
    theirs, scorer = deepcopy(model), ForestScorer(model).train()
    assert_same(packed(scorer, company()), by_transformers(theirs, company()), tolerance=1e-4)
    assert scorer.carries_state


@pytest.mark.parametrize("name", ["lfm2", "mamba2"])
def test_every_token_is_computed_once(name: str) -> None:
    scorer, given = ForestScorer(small_model(name)), []
    embedding = scorer.transformers_model.get_input_embeddings()
    forest = build_forest(company())
    with torch.no_grad():
        scorer(forest)  # which tries the state first
        embedding.register_forward_hook(lambda _module, ids, _output: given.append(ids[0].numel()))
        scorer(forest)
        assert sum(given) == forest.num_tokens == 42
        scorer.carries_state, given[:] = False, []
        scorer(forest)
    assert sum(given) == forest.num_path_tokens == 61


def test_a_decoder_that_asserts_single_tokens_runs_one_sequence_a_row() -> None:
    """ProphetNet's attention stops at several tokens beside a cache."""
    scorer = ForestScorer(small_model("prophetnet"))
    with torch.no_grad():
        scores = scorer(build_forest(company()))
    assert scorer.carries_state is False
    assert scores.logps.isfinite().all()


def test_what_is_computed_again_or_compiled_runs_one_sequence_a_row() -> None:
    for prepare in (ForestScorer.checkpoint_activations, ForestScorer.compile_layers):
        scorer = ForestScorer(small_model("lfm2"))
        prepare(scorer)
        assert scorer.carries_state is False
