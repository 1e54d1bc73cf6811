"""Laws of the scorer: for every architecture, shared prefixes give what each sequence alone gives."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.models.exact_norms import float64_model
from tests.models.scorer_runs import (
    IN_FLOAT64,
    SHARING,
    SLIDING,
    assert_same,
    by_transformers,
    coefficients,
    company,
    draw,
    one_at_a_time,
    packed,
)
from tests.slowly import of_each_kind
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import TINY, tiny_model
from zephyr.trees.forest import all_scored, build_forest, completion_scored

# A delta rule computes in chunks, and rounds by where they begin: 1.1e-5 of the gradient of a decay.
IN_FLOAT32 = {"qwen3_next": 3e-5}


@pytest.mark.parametrize("name", of_each_kind(IN_FLOAT64))
def test_sharing_changes_nothing_in_float64(name: str) -> None:
    scorer = ForestScorer(float64_model(name))
    assert_same(packed(scorer, company()), one_at_a_time(scorer, company()), tolerance=1e-12)


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_sharing_changes_nothing_in_float32(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    assert_same(packed(scorer, company()), one_at_a_time(scorer, company()), tolerance=IN_FLOAT32.get(name, 1e-5))


@pytest.mark.parametrize("name", of_each_kind(IN_FLOAT64))
def test_scores_equal_eager_attention_of_transformers(name: str) -> None:
    """To 1e-6 and no closer, for eager attention takes its softmax in float32."""
    eager = float64_model(name)
    eager.set_attn_implementation("eager")
    ours = packed(ForestScorer(float64_model(name)), company())
    assert_same(ours, by_transformers(eager, company()), tolerance=1e-6)


@pytest.mark.parametrize("name", of_each_kind(name for name in TINY if name not in IN_FLOAT64))
def test_scores_equal_transformers_in_float32(name: str) -> None:
    theirs = tiny_model(name)
    if name in SHARING:
        theirs.set_attn_implementation("eager")
    ours = packed(ForestScorer(tiny_model(name)), company())
    assert_same(ours, by_transformers(theirs, company()), tolerance=IN_FLOAT32.get(name, 1e-5))


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_order_of_sequences_changes_nothing(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    order = np.random.default_rng(1).permutation(len(company()))
    with torch.no_grad():
        straight = scorer(build_forest(company())).logps
        shuffled = scorer(build_forest([company()[place] for place in order])).logps
    torch.testing.assert_close(shuffled, straight[torch.from_numpy(order)], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_another_last_token_changes_no_other_sequence_by_a_bit(name: str) -> None:
    scorer = ForestScorer(tiny_model(name))
    rng = np.random.default_rng(2)
    prompt, completions, stranger = draw(rng, 15), [draw(rng, length) for length in (9, 6, 12)], draw(rng, 20)
    before, after = [*completions[1][:-1], 1], [*completions[1][:-1], 2]

    def logps(changed: list[int]) -> list[float]:
        shared = [completions[0], changed, completions[2]]
        sequences = [completion_scored(prompt, completion) for completion in shared] + [all_scored(stranger)]
        with torch.no_grad():
            return scorer(build_forest(sequences)).logps.tolist()

    same = [first == second for first, second in zip(logps(before), logps(after), strict=True)]
    assert same == [True, False, True, True]


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_window_bites(name: str) -> None:
    """The tests above would not see a forgotten window if the sequences were no longer than it."""
    forest = build_forest(company())
    with torch.no_grad():
        narrow, wide, widest = (
            ForestScorer(tiny_model(name, sliding_window=window))(forest).logps for window in (8, 12, 64)
        )
    longer_than_window = [number for number, sequence in enumerate(company()) if sequence.scored[12:].any()]
    assert longer_than_window == [0, 1, 3, 4, 5, 6]
    assert ((narrow - widest).abs()[longer_than_window] > 1e-3).all()
    assert ((narrow - wide).abs()[longer_than_window] > 1e-3).all()
    torch.testing.assert_close(narrow[7], widest[7])  # six tokens fit every window


@pytest.mark.parametrize("name", of_each_kind(TINY))
def test_metrics_equal_those_of_all_logits(name: str) -> None:
    model, sequence = tiny_model(name), company()[5]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(sequence.ids)[None], use_cache=False).logits[0, :-1]
        scores = ForestScorer(model)(build_forest(company()), with_entropy=True)
    assert scores.num_tokens.tolist() == [6, 7, 0, 2, 6, 18, 12, 3, 0, 0]
    assert scores.entropies is not None
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(scores.entropies[5].float(), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits[5].float(), logits.mean(), rtol=1e-5, atol=1e-5)


def test_stateful_model_falls_back_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Mamba cannot go on with several tokens from its state; transformers gives other values, and says nothing."""
    with caplog.at_level(logging.WARNING, logger="zephyr"):
        scorer = ForestScorer(tiny_model("mamba"))
        for _ in range(2):
            scorer(build_forest(company()))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("zephyr")]
    assert (scorer.shares_prefixes, scorer.carries_state) == (False, False)
    assert len(ours) == 1
    assert "one sequence a row" in ours[0]


@pytest.mark.parametrize("name", of_each_kind(SHARING))
def test_attention_model_shares_and_is_silent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zephyr"):
        assert ForestScorer(tiny_model(name)).shares_prefixes
    assert not [record for record in caplog.records if record.name.startswith("zephyr")]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_next"])
def test_router_logits_of_shared_tokens_equal_those_alone(name: str) -> None:
    scorer = ForestScorer(tiny_model(name), keep_router_logits=True)
    first, second = completion_scored([5, 6, 7], [8, 9]), completion_scored([5, 6, 7], [10])
    with torch.no_grad():
        together, *alone = (
            (scorer(build_forest(sequences)), scorer.router_logits)[1]
            for sequences in ([first, second], [first], [second])
        )
    assert [tuple(layer.shape) for layer in together] == [(6, 4), (6, 4)]
    for layer, one, two in zip(together, *alone, strict=True):
        torch.testing.assert_close(layer, torch.cat([one, two[3:]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_next"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_experts_compute_in_the_dtype_of_autocast(
    name: str, autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    product, dtypes = functional.grouped_mm, []

    def seen(left: Tensor, right: Tensor, **options: Tensor) -> Tensor:
        dtypes.append((left.dtype, right.dtype))
        return product(left, right, **options)

    monkeypatch.setattr(functional, "grouped_mm", seen)
    scores, gradients = [], []
    for dtype in (autocast, None):
        scorer = ForestScorer(tiny_model(name), autocast=dtype)
        logps = scorer(build_forest(company())).logps
        (logps * coefficients(len(logps))).sum().backward()
        scores.append(logps.detach())
        gradients.append([p.grad for key, p in scorer.named_parameters() if "experts" in key])
    computed = autocast or torch.float32
    # Two layers of two products, for the forest or for each of its chains, in either run.
    half = len(dtypes) // 2
    assert half >= 4
    assert dtypes == [(computed, computed)] * half + [(torch.float32, torch.float32)] * half
    assert all(one.dtype == torch.float32 for one in gradients[0])
    torch.testing.assert_close(scores[0], scores[1], rtol=0.05, atol=0.05)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= (0 if autocast is None else 0.1) * theirs.norm()
