"""One optimizer step equals an independent padded computation, and the cut into micro-batches changes nothing."""

import math
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tests.models.exact_norms import float64_model
from tests.train.tiny_runs import OPTIONS, examples_for, tiny_job, weights
from zephyr.models.tiny import tiny_model
from zephyr.train.metrics import Shares, added, as_line, over_ranks
from zephyr.train.objectives import Metric
from zephyr.train.run import start
from zephyr.train.step import accumulate_gradients
from zephyr.train.train import train

# The padded side: transformers' own forward, right padding, an attention mask, and the losses by hand.


class Padded(NamedTuple):
    """Sequences of one batch, padded on the right; ``scored`` marks the targets."""

    ids: Tensor
    mask: Tensor
    scored: Tensor


def padded(sequences):
    """(ids, index of the first scored token) of every sequence as a batch."""
    width = max(len(ids) for ids, _ in sequences)
    batch = Padded(*(torch.zeros(len(sequences), width, dtype=torch.int64) for _ in range(3)))
    for row, (ids, first) in enumerate(sequences):
        batch.ids[row, : len(ids)] = torch.from_numpy(ids)
        batch.mask[row, : len(ids)] = 1
        batch.scored[row, first : len(ids)] = 1
    return batch


def padded_logps(model, batch):
    """(n, T - 1) log-probs of the scored tokens, 0 elsewhere."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1]
    picked = logits.double().log_softmax(-1).gather(2, batch.ids[:, 1:, None]).squeeze(2)
    return picked * batch.scored[:, 1:]


def completions(examples, which):
    return padded([(np.concatenate([one.prompt, one.completions[which]]), len(one.prompt)) for one in examples])


def sft_by_hand(model, examples):
    batch = padded([(one.ids, int(np.flatnonzero(one.scored)[0])) for one in examples])
    return -padded_logps(model, batch).sum() / batch.scored.sum()


def dpo_by_hand(model, examples, beta=0.1):
    chosen, rejected = (padded_logps(model, completions(examples, n)).sum(1) for n in (0, 1))
    # At the first step the policy is the reference.
    margins = (chosen - chosen.detach()) - (rejected - rejected.detach())
    return -logsigmoid(beta * margins).mean()


def orpo_by_hand(model, examples, beta=0.1):
    batches = [completions(examples, n) for n in (0, 1)]
    chosen, rejected = (padded_logps(model, b).sum(1) / b.scored.sum(1) for b in batches)
    log_odds = chosen - rejected - torch.log1p(-chosen.exp()) + torch.log1p(-rejected.exp())
    whole = padded([(np.concatenate([one.prompt, one.completions[0]]), 1) for one in examples])
    nll = -padded_logps(model, whole).sum() / whole.scored.sum()
    return nll - beta * logsigmoid(log_odds).mean()


BY_HAND = {"sft": sft_by_hand, "dpo": dpo_by_hand, "orpo": orpo_by_hand}


def gradients(module):
    return {
        name.removeprefix("causal_lm."): p.grad.clone() for name, p in module.named_parameters() if p.grad is not None
    }


def adamw_by_hand(model, gradients, settings):
    """The weights after the first step of AdamW on clipped gradients."""
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    scale = min(1.0, settings.max_grad_norm / norm)
    stepped = {}
    for name, weight in model.named_parameters():
        gradient, rate = gradients[name] * scale, settings.learning_rate
        decay = settings.weight_decay if weight.ndim > 1 else 0.0
        # Both moments are corrected for their start, so at first they are the gradient and its square.
        step = gradient / (gradient.abs() + settings.adam_epsilon)
        stepped[name] = (weight * (1 - rate * decay) - rate * step).detach()
    return stepped


def apart(ours, theirs):
    """The largest difference of two sets of tensors, relative to the largest entry of each tensor."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name] - right).detach().abs().max() / right.abs().max().clamp(min=1e-12))
        for name, right in theirs.items()
    )


def one_step(objective, model, **changes):
    """A job of one step over all 24 examples, cut into several micro-batches."""
    return tiny_job(changes.pop("folder"), objective, model=model, max_steps=1, train_batch_size=24, **changes)


def started(job):
    """The run of a job before its first step."""
    run = start(job)
    run.tracker.close()
    return run


def whole_batch(run, order):
    return run.batch([run.job.examples[index] for index in order], order)


@pytest.mark.parametrize(
    ("attention", "window", "within"),
    [
        ("sdpa", 8, 1e-9),
        # It takes its softmax in float32, whatever the model computes in, and there a padded position that a
        # window cuts off from every token becomes NaN.
        ("eager", 64, 1e-6),
    ],
)
@pytest.mark.parametrize("objective", BY_HAND)
def test_loss_and_gradients_equal_the_padded_ones(tmp_path, objective, attention, window, within):
    theirs = float64_model("mistral", sliding_window=window)
    theirs.set_attn_implementation(attention)
    loss = BY_HAND[objective](theirs, examples_for(objective))
    loss.backward()
    ours = float64_model("mistral", sliding_window=window)
    job = one_step(objective, ours, folder=tmp_path, precision="float64")
    run = started(job)
    total = added(accumulate_gradients(run.scorer, whole_batch(run, range(24)), job.settings))
    assert float(total.loss) == pytest.approx(loss.item(), rel=within)
    assert apart(gradients(run.scorer), gradients(theirs)) < within


@pytest.mark.parametrize("objective", BY_HAND)
def test_updated_weights_equal_those_of_a_step_by_hand(tmp_path, objective):
    theirs = float64_model("mistral")
    theirs.set_attn_implementation("sdpa")
    BY_HAND[objective](theirs, examples_for(objective)).backward()
    job = one_step(
        objective,
        float64_model("mistral"),
        folder=tmp_path,
        precision="float64",
        weight_decay=0.1,
        max_grad_norm=0.5,
    )
    stepped = adamw_by_hand(theirs, gradients(theirs), job.settings)
    outcome = train(job)
    assert outcome.train_metrics["grad_norm"] > 0.5
    assert apart(dict(job.model.named_parameters()), stepped) < 1e-9
    assert apart(dict(theirs.named_parameters()), stepped) > 1e-4


# The cut: tokens a micro-batch, order of examples, coupling.

CUTS = [
    *OPTIONS.items(),
    *[("dpo", {"beta": 0.1, "loss_type": loss_type}) for loss_type in ("aot", "bco_pair", "ipo")],
    ("dpo", {"beta": 0.1, "rpo_alpha": 0.5, "ld_alpha": 0.3}),
]


class Step(NamedTuple):
    """What one step found, in a given cut."""

    line: dict[str, float]
    gradients: dict[str, Tensor]
    num_micro_batches: int


def step_of(job, order, monkeypatch):
    """The gradient of the job's whole data in this order, by a policy that has left its reference."""
    run = started(job)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in job.model.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(noise.to(weight.dtype), alpha=0.02)
    batch = whole_batch(run, order)
    num_backward = 0
    backward = Tensor.backward

    def counted(tensor, *args, **kwargs):
        nonlocal num_backward
        num_backward += 1
        backward(tensor, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "backward", counted)
        total = added(accumulate_gradients(run.scorer, batch, job.settings))
    return Step(as_line(total), gradients(run.scorer), num_backward)


@pytest.mark.parametrize(("objective", "options"), CUTS, ids=str)
def test_budget_and_order_change_nothing(tmp_path, objective, options, monkeypatch):
    def step(max_tokens, order):
        model = float64_model("mistral")
        job = one_step(
            objective,
            model,
            folder=tmp_path,
            precision="float64",
            max_tokens_per_micro_batch=max_tokens,
            **options,
        )
        return step_of(job, order, monkeypatch)

    whole = step(10_000, range(24))
    assert whole.num_micro_batches == 1
    shuffled = list(np.random.default_rng(0).permutation(24))
    for max_tokens, fewest in ((200, 2), (45, 8)):
        cut = step(max_tokens, shuffled)
        assert cut.num_micro_batches >= fewest
        assert cut.line == pytest.approx(whole.line, rel=1e-9)
        assert apart(cut.gradients, whole.gradients) < 1e-9


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_in_float32_the_cut_changes_rounding_only(tmp_path, objective, monkeypatch):
    whole, cut = (
        step_of(
            one_step(objective, tiny_model("mistral"), folder=tmp_path, max_tokens_per_micro_batch=max_tokens),
            range(24),
            monkeypatch,
        )
        for max_tokens in (10_000, 45)
    )
    assert cut.line["loss"] == pytest.approx(whole.line["loss"], abs=1e-6)
    # Relative to the gradient as a whole: a tensor of tiny entries carries the rounding of the others.
    largest = max(float(gradient.abs().max()) for gradient in whole.gradients.values())
    for name, gradient in whole.gradients.items():
        assert float((cut.gradients[name] - gradient).abs().max()) < 1e-5 * largest, name


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_balance_of_experts_is_that_of_the_whole_batch(tmp_path, objective, monkeypatch):
    whole, cut = (
        step_of(
            one_step(
                objective,
                tiny_model("mixtral"),
                folder=tmp_path,
                max_tokens_per_micro_batch=max_tokens,
                router_aux_loss_coef=0.02,
            ),
            range(24),
            monkeypatch,
        )
        for max_tokens in (10_000, 45)
    )
    assert (whole.num_micro_batches, cut.num_micro_batches > 7) == (1, True)
    assert cut.line["loss"] == pytest.approx(whole.line["loss"], abs=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in whole.gradients.values())
    for name, gradient in whole.gradients.items():
        assert float((cut.gradients[name] - gradient).abs().max()) < 1e-5 * largest, name


def test_a_run_of_steps_ends_alike_in_any_cut(tmp_path):
    ends = []
    for max_tokens in (45, 10_000):
        job = tiny_job(
            tmp_path / f"{max_tokens}",
            model=float64_model("mistral"),
            precision="float64",
            max_tokens_per_micro_batch=max_tokens,
        )
        train(job)
        ends.append(weights(job.model))
    assert apart(*ends) < 1e-6


def test_shares_come_to_the_cpu_in_one_copy(monkeypatch):
    copies, to_cpu = [], Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda value: copies.append(value.shape) or to_cpu(value))
    one, third = torch.tensor(1.0), torch.tensor(1 / 3, dtype=torch.float64)
    shares = [
        Shares(torch.tensor(0.1), {"margin": Metric(third, torch.tensor(2)), "once": Metric(one, one)}),
        Shares(torch.tensor(0.2), {"margin": Metric(one, torch.tensor(3))}),
    ]
    total = added(shares)
    assert copies == [(8,)]
    assert total.loss.item() == torch.tensor(0.1).double().item() + torch.tensor(0.2).double().item()
    assert {name: (m.total.item(), m.weight.item()) for name, m in total.metrics.items()} == {
        "margin": (1 / 3 + 1, 5.0),
        "once": (1.0, 1.0),
    }
    assert added([]).loss.item() == 0.0
    copies.clear()
    everywhere, norm = over_ranks(shares, torch.tensor(0.3))
    assert copies[0] == (9,)  # with the norm; what follows is on the CPU already
    assert everywhere.loss == total.loss
    assert norm == torch.tensor(0.3).item()


def test_a_layout_is_made_before_the_device_is_waited_for(tmp_path, monkeypatch):
    """The next micro-batch's before a backward pass, and the next step's first before the numbers of this one."""
    events = []

    def noting(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: events.append(name) or call(*args, **kwargs))

    module, loop = (sys.modules[f"zephyr.train.{name}"] for name in ("step", "train"))
    for owner, name in [
        (module, "unique_tokens"),
        (module, "laid_out"),
        (module, "score_forest"),
        (Tensor, "backward"),
        (loop, "over_ranks"),
    ]:
        noting(owner, name)
    train(tiny_job(tmp_path, max_steps=2, train_batch_size=24, self_checks=False))
    waits = [place for place, name in enumerate(events) if name == "over_ranks"]
    first, second = events[: waits[0]], events[waits[0] + 1 : waits[1]]
    num_parts = first.count("backward")
    assert num_parts > 1
    in_between = ["laid_out", "backward", "score_forest"] * (num_parts - 1)
    following = ["unique_tokens", "laid_out"]
    assert first == ["unique_tokens", "laid_out", "score_forest", *in_between, "backward", *following]
    assert second == first[2:-2]
