"""What training adds to a loss, beside transformers', peft's and TRL's own code: noise, dropout, a moving reference.

What is drawn by chance is ours on both sides; its size, and what is made of it, is theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers.integrations.neftune import neftune_post_forward_hook

from tests.train.sections import make_objective
from tests.train.tiny_runs import pairs
from zephyr.models.adapters import add_lora
from zephyr.models.batch_scoring import forest_of
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.models.token_noise import TokenNoise, row_hashes
from zephyr.recipe.train_section import LoraSection
from zephyr.train.moving_reference import moving_reference
from zephyr.trees.forest import all_scored, build_forest

pytestmark = pytest.mark.slow

# GPT-2 computes in float64 throughout; the norms of others do not.
MODEL = "gpt2"
ROWS = torch.tensor([[5, 6, 7, 8, 9, 3], [5, 6, 9, 4, 2, 7]])
NOISE = TokenNoise(alpha=5.0, longest=ROWS.shape[1], seed=42, step=3)
HASHES = torch.stack([row_hashes(row) for row in ROWS])
CLOSE = {"rtol": 1e-6, "atol": 1e-12}


def loss_of_rows(model: nn.Module) -> Tensor:
    """The loss of supervised fine-tuning on all tokens; transformers' own takes the logits in float32."""
    logits: Tensor = model(input_ids=ROWS).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ROWS[:, 1:].flatten())


def loss_on_a_tree(scorer: ForestScorer, noise: TokenNoise) -> Tensor:
    with scorer.noisy(noise):
        scores = scorer(build_forest([all_scored(row) for row in ROWS.tolist()]))
    return -scores.logps.sum() / scores.num_tokens.sum()


def same(ours: Tensor, theirs: Tensor, models: tuple[nn.Module, nn.Module]) -> None:
    """Check that the losses agree, and their gradients by every weight that trains."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    trained = [[weight for weight in model.parameters() if weight.requires_grad] for model in models]
    for mine, other in zip(torch.autograd.grad(ours, trained[0]), torch.autograd.grad(theirs, trained[1]), strict=True):
        # Log-softmax is taken in float32 on trees.
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_neftune_is_that_of_transformers() -> None:
    """TRL's trainers have it from there. The size of the noise is theirs: alpha / sqrt(length * width)."""
    mine, theirs = (tiny_model(MODEL, dtype=torch.float64) for _ in range(2))
    embedding = theirs.get_input_embeddings()
    embedding.neftune_noise_alpha = NOISE.alpha
    embedding.register_forward_hook(neftune_post_forward_hook)
    sizes = []

    def drawn(zeros: Tensor, low: Tensor, high: Tensor) -> Tensor:
        assert low == -high
        sizes.append(float(high))
        parts = torch.stack([NOISE._drawn(of_row, zeros.shape[-1]) for of_row in HASHES])
        return high.double() * parts

    plain = loss_of_rows(theirs.eval())
    with mock.patch.object(torch.Tensor, "uniform_", drawn):
        noisy = loss_of_rows(theirs.train())
    assert sizes == [pytest.approx(5 / (6 * embedding.embedding_dim) ** 0.5)]
    assert abs(noisy - plain) > 1e-3
    same(loss_on_a_tree(ForestScorer(mine), NOISE), noisy, (mine, theirs))


@contextmanager
def dropping(model: nn.Module, noise: TokenNoise) -> Iterator[None]:
    """Inside, each dropout of peft's keeps what ours keeps, scaled as torch documents it: by 1 / (1 - p)."""
    adapters = [module for module in model.modules() if isinstance(module, LoraLayer)]
    numbers = {layer.lora_dropout["default"]: number for number, layer in enumerate(adapters)}
    with mock.patch.object(nn.Dropout, "forward", autospec=True) as forward:

        def dropped(module: nn.Dropout, given: Tensor) -> Tensor:
            if module not in numbers:
                return given
            assert module.p == noise.dropout
            drawn = [noise._drawn(of_row, given.shape[-1], numbers[module] + 1) for of_row in HASHES]
            return given * ((torch.stack(drawn) + 1) / 2 >= module.p) / (1 - module.p)

        forward.side_effect = dropped
        yield


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_dropout_of_adapters_is_that_of_peft(options: dict[str, bool]) -> None:
    noise = NOISE._replace(alpha=None, dropout=0.3)
    lora = LoraSection(r=4, lora_alpha=8, lora_dropout=0.3, **options)
    mine, theirs = (add_lora(tiny_model(MODEL, dtype=torch.float64), lora) for _ in range(2))
    for model in (mine, theirs):
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name and "magnitude" not in name:
                    weight.copy_(torch.randn(weight.shape, generator=drawn) / 5)
        model.double()
    plain = loss_of_rows(theirs.eval())
    with dropping(theirs, noise):
        dropped = loss_of_rows(theirs.train())
    assert abs(dropped - plain) > 1e-3
    same(loss_on_a_tree(ForestScorer(mine).train(), noise), dropped, (mine, theirs))


def test_the_reference_of_kto_follows_as_trls_callback_makes_it() -> None:
    """TRL moves references so for DPO; KTO's is the same rule. Steps 2 and 4 of five move it."""
    from trl.trainer.callbacks import SyncRefModelCallback

    options = {"beta": 0.3, "reference_sync_steps": 2, "reference_mixup": 0.6}
    objective = make_objective("kto", options)
    policy = ForestScorer(tiny_model(MODEL, dtype=torch.float64))
    reference = tiny_model(MODEL, dtype=torch.float64)
    moving = moving_reference(objective, policy, None)
    assert moving is not None
    callback = SyncRefModelCallback(reference, None)
    arguments = SimpleNamespace(ref_model_sync_steps=2, ref_model_mixup_alpha=0.6)
    rows = [objective.sequences(pair) for pair in pairs(3)]
    started, drawn, seen = ForestScorer(reference)(forest_of(rows, 2)).logps, torch.Generator().manual_seed(1), []
    moved = SyncRefModelCallback._sync_target_model
    for step in range(1, 6):
        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(torch.randn(weight.shape, generator=drawn), alpha=0.02)
        moving.follow(policy, step)
        with mock.patch.object(SyncRefModelCallback, "sync_target_model", staticmethod(moved)):
            state = SimpleNamespace(global_step=step)
            callback.on_step_end(arguments, state, None, model=policy.transformers_model)
        for name, weight in reference.named_parameters():
            torch.testing.assert_close(moving.weights[f"causal_lm.{name}"], weight, **CLOSE)
        with torch.no_grad():
            expected = ForestScorer(reference)(forest_of(rows, 2)).logps
        torch.testing.assert_close(moving.logps(policy, rows, max_tokens=400), expected.view(3, 2), **CLOSE)
        seen.append(not torch.equal(expected, started))
    assert seen == [False, True, True, True, True]
