"""What is drawn for tokens: its size, and that it depends on the step and the tokens before alone."""

import math

import pytest
import torch

from zephyr.errors import ModelError
from zephyr.models.adapters import add_lora
from zephyr.models.architecture import check_lora_modules
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.models.token_noise import TokenNoise, path_hashes, row_hashes, token_noise
from zephyr.recipe.train_section import LoraSection
from zephyr.trees.forest import all_scored, build_forest

NOISE = TokenNoise(alpha=5.0, longest=10, seed=42, step=3)


def test_it_is_uniform_up_to_alpha_over_the_root_of_length_and_width():
    noise = NOISE.on(row_hashes(torch.arange(2000)), torch.zeros(1, 2000, 64))
    bound = 5 / math.sqrt(10 * 64)
    assert noise.abs().max() <= bound
    assert float(noise.abs().max()) == pytest.approx(bound, rel=1e-4)
    assert float(noise.var()) == pytest.approx(bound**2 / 3, rel=0.01)
    assert abs(float(noise.mean())) < 0.01 * bound
    for dim in (1, 2):  # neighbours tell nothing of each other
        a, b = noise.narrow(dim, 0, noise.shape[dim] - 1), noise.narrow(dim, 1, noise.shape[dim] - 1)
        assert abs(float((a * b).mean())) < 0.01 * bound**2


def test_it_follows_from_seed_step_and_the_tokens_up_to_one():
    ids = torch.tensor([5, 5, 7, 5])
    zeros = torch.zeros(1, 4, 8)
    noise = NOISE.on(row_hashes(ids), zeros)
    assert len(noise[0].unique(dim=0)) == 4
    for other in (NOISE._replace(seed=43), NOISE._replace(step=4)):
        assert not torch.equal(other.on(row_hashes(ids), zeros), noise)
    longer = NOISE.on(row_hashes(torch.tensor([5, 5, 9, 5])), zeros)
    assert [torch.equal(a, b) for a, b in zip(noise[0], longer[0], strict=True)] == [True, True, False, False]


def test_trees_hold_the_hashes_of_their_rows():
    rows = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 9, 9, 4], [3, 6, 7, 8]]
    forest = build_forest([all_scored(row) for row in rows])
    hashes = path_hashes(forest)
    for row, last in zip(rows, forest.last.tolist(), strict=True):
        assert hashes[last] == row_hashes(torch.tensor(row))[-1]
    assert len(hashes.unique()) == forest.num_tokens


@pytest.mark.parametrize("layout", ["trees", "one a row"])
def test_a_model_is_given_noisy_embeddings_and_scores_trees_as_rows(layout):
    scorer = ForestScorer(tiny_model("mistral", dtype=torch.float64))
    if layout != "trees":
        scorer.shares_prefixes = False
        scorer.transformers_model.set_attn_implementation("eager")
    rows = [[5, 6, 7, 8, 9], [5, 6, 9, 4]]
    plain = scorer(build_forest([all_scored(row) for row in rows])).logps
    with scorer.noisy(NOISE):
        together = scorer(build_forest([all_scored(row) for row in rows])).logps
        alone = torch.cat([scorer(build_forest([all_scored(row)])).logps for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together - plain).abs().min() > 1e-4
    assert torch.equal(scorer(build_forest([all_scored(row) for row in rows])).logps, plain)
    model, ids = scorer.transformers_model, torch.tensor([rows[0]])
    embedded = NOISE.on(row_hashes(ids[0]), model.get_input_embeddings()(ids))
    model.set_attn_implementation("eager")
    logps = model(inputs_embeds=embedded).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).sum()
    torch.testing.assert_close(together[0], logps, rtol=0, atol=1e-5)


def test_the_longest_sequence_is_that_of_the_batch():
    rows = [[all_scored([1, 2, 3])], [all_scored([1, 2]), all_scored([1, 2, 3, 4])]]
    assert token_noise(5.0, 0.0, rows, seed=1, step=2) == TokenNoise(5.0, 4, 1, 2)
    assert token_noise(None, 0.0, rows, seed=1, step=2) is None


def test_dropout_keeps_a_share_scaled_up_and_draws_anew_for_each_adapter():
    noise = NOISE._replace(alpha=None, dropout=0.25)
    hashes, ones = row_hashes(torch.arange(2000)), torch.ones(1, 2000, 64)
    dropped = noise.dropped(hashes, ones, 0)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    other = noise.dropped(hashes, ones, 1)
    assert float(((dropped == 0) & (other == 0)).float().mean()) == pytest.approx(0.0625, abs=0.003)
    assert noise.on(hashes, ones) is ones


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_on_trees_are_given_what_they_are_on_rows(dora):
    model = add_lora(tiny_model("mistral", dtype=torch.float64), LoraSection(r=4, lora_dropout=0.5, use_dora=dora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    scorer = ForestScorer(model).train()
    assert scorer.adapter_dropout == 0.5
    rows = [[5, 6, 7, 8, 9], [5, 6, 9, 4]]
    plain = scorer(build_forest([all_scored(row) for row in rows])).logps
    with scorer.noisy(NOISE._replace(alpha=None, dropout=0.5)):
        together = scorer(build_forest([all_scored(row) for row in rows])).logps
        alone = torch.cat([scorer(build_forest([all_scored(row)])).logps for row in rows])
        with scorer.as_reference():
            reference = scorer(build_forest([all_scored(row) for row in rows])).logps
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together - plain).abs().min() > 1e-4
    with scorer.as_reference():
        assert torch.equal(scorer(build_forest([all_scored(row) for row in rows])).logps, reference)


def test_dropout_is_refused_where_it_is_not_that_of_the_tokens():
    scorer = ForestScorer(add_lora(tiny_model("mistral"), LoraSection(r=4, lora_dropout=0.5)))
    scorer.shares_prefixes = False
    with (
        pytest.raises(ModelError, match="lora_dropout: runs one sequence a row"),
        scorer.noisy(NOISE._replace(dropout=0.5)),
    ):
        pass
    for name, targets, expected in (
        ("mixtral", "all-linear", "lora_dropout cannot be had on stacked weights of experts"),
        ("mixtral", ["experts"], "lora_dropout cannot be had on stacked weights of experts"),
        ("mistral", ["lm_head"], "lora_dropout cannot be had on the head"),
    ):
        with pytest.raises(ModelError, match=expected):
            check_lora_modules(tiny_model(name), LoraSection(lora_dropout=0.1, target_modules=targets))
