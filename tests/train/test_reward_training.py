"""Reward models are trained: loss and gradient beside TRL's formulas on padded rows, and the folder that is written."""

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from tests.train.sections import make_objective
from tests.train.tiny_runs import SETTINGS, column, pairs, tiny_job
from zephyr.data.tokenize.token_store import Comparison
from zephyr.errors import InvariantError
from zephyr.models.batch_scoring import unique_tokens
from zephyr.models.loading import save_model
from zephyr.models.reward_model import NewHead, own_rewards, reward_model_of, set_padding
from zephyr.models.source import Source
from zephyr.models.tiny import EOS_ID, tiny_model, tiny_tokenizer
from zephyr.recipe.objective_section import BradleyTerryObjective
from zephyr.recipe.train_section import LoraSection
from zephyr.train.job import TrainJob, build_scorer
from zephyr.train.metrics import added
from zephyr.train.objectives import Scored, build_objective
from zephyr.train.step import accumulate_gradients, make_batch
from zephyr.train.stored_model import StoredModel
from zephyr.train.train import train

RATED = [pair._replace(ratings=(3.0 + number % 3, 1.5)) for number, pair in enumerate(pairs(8))]


def reward_model():
    model = reward_model_of(tiny_model("mistral"), seed=3).double()
    set_padding(model, tiny_tokenizer(), {EOS_ID})
    return model


@pytest.mark.parametrize("options", [{}, {"center_rewards_coefficient": 0.1}, {"rating_margin": 0.5}])
def test_loss_and_gradient_are_those_of_trl(options):
    """TRL 1.16's RewardTrainer.compute_loss, on rows padded to one length and by transformers' own forward."""
    model = reward_model()
    whole = [np.concatenate([pair.prompt, pair.completions[side]]) for side in (0, 1) for pair in RATED]
    longest = max(map(len, whole))
    ids = torch.tensor([[*one, *[model.config.pad_token_id] * (longest - len(one))] for one in whole])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in whole])
    chosen, rejected = model(input_ids=ids, attention_mask=mask).logits.squeeze(-1).chunk(2)
    margin = torch.tensor([pair.ratings[0] - pair.ratings[1] for pair in RATED]) * options.get("rating_margin", 0.0)
    loss = -logsigmoid(chosen - rejected - margin).mean()
    loss += options.get("center_rewards_coefficient", 0.0) * torch.mean((chosen + rejected) ** 2)
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    settings = SETTINGS.model_copy(update={"precision": "float64", "max_tokens_per_micro_batch": 60})
    scorer = build_scorer(model, settings)
    batch = make_batch(make_objective("bradley_terry", options), RATED, None)
    total = added(accumulate_gradients(scorer, batch, settings))
    assert float(total.loss) == pytest.approx(loss.item(), abs=1e-9)
    for name, parameter in model.named_parameters():
        # The norms compute in float32, whatever the weights are.
        assert float((parameter.grad - expected[name]).abs().max()) < 1e-6, name


def test_metrics_are_those_of_the_rewards():
    model = reward_model()
    whole = [np.concatenate([pair.prompt, pair.completions[side]]) for side in (0, 1) for pair in RATED]
    chosen, rejected = own_rewards(model, whole).chunk(2)
    settings = SETTINGS.model_copy(update={"precision": "float64"})
    batch = make_batch(make_objective("bradley_terry"), RATED, None)
    metrics = added(accumulate_gradients(build_scorer(model, settings), batch, settings)).metrics
    assert sorted(metrics) == ["rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected"]
    means = {name: float(one.total / one.weight) for name, one in metrics.items()}
    assert means["rewards/chosen"] == pytest.approx(float(chosen.mean()), abs=1e-9)
    assert means["rewards/margins"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-9)
    assert means["rewards/accuracies"] == float((chosen > rejected).double().mean())


def list_loss(rewards, ratings, **options) -> float:
    """The loss of one prompt's answers, which have these rewards."""
    examples = [Comparison("a list", np.array([5]), tuple(np.array([7, n]) for n in range(len(ratings))), ratings)]
    objective = build_objective(BradleyTerryObjective(**options), examples)
    table = torch.tensor([rewards], dtype=torch.float64)
    scored = Scored(table, torch.ones_like(table), None, torch.zeros_like(table), objective.labels(examples))
    return float(objective.loss(scored, objective.totals(examples)))


def test_a_list_counts_all_its_pairs_together_as_much_as_one():
    """Rewards 2, 1, -1: differences 1, 3, 2, and -log s of them 0.313262, 0.048587, 0.126928."""
    assert list_loss([2.0, 1.0, -1.0], (9.0, 5.0, 4.0)) == pytest.approx((0.313262 + 0.048587 + 0.126928) / 3, abs=1e-6)
    # Of the two answers rated 5 none is better: two pairs are left, 0.313262 and 0.048587.
    assert list_loss([2.0, 1.0, -1.0], (9.0, 5.0, 5.0)) == pytest.approx((0.313262 + 0.048587) / 2, abs=1e-6)
    # Margins of half a point: 1 - 2, 3 - 2.5, 2 - 0.5, and -log s of -1, 0.5, 1.5.
    expected = (1.313262 + 0.474077 + 0.201413) / 3
    assert list_loss([2.0, 1.0, -1.0], (9.0, 5.0, 4.0), rating_margin=0.5) == pytest.approx(expected, abs=1e-6)
    # A pair is ordered as it stands, also where it is rated alike.
    assert list_loss([2.0, 1.0], (5.0, 5.0)) == pytest.approx(0.313262, abs=1e-6)


def test_a_list_has_the_gradient_of_its_pairs_and_is_computed_once():
    """Two prompts with three and two answers, in one tree each, beside every pair by itself."""
    lists = [Comparison(f"list {n}", one.prompt, (*one.completions, np.array([9, 8, n])), (3.0, 2.0, 1.0))
             for n, one in enumerate(RATED[:2])]  # fmt: skip
    lists[1] = lists[1]._replace(completions=lists[1].completions[:2], ratings=(3.0, 2.0))
    model, settings = reward_model(), SETTINGS.model_copy(update={"precision": "float64"})
    scorer = build_scorer(model, settings)

    def gradient(examples, weights):
        found = []
        for one, weight in zip(examples, weights, strict=True):
            model.zero_grad()
            accumulate_gradients(
                scorer, make_batch(build_objective(BradleyTerryObjective(), [one]), [one], None), settings
            )
            found.append(model.score.weight.grad * weight)
        return sum(found)

    def pair(one, better, worse):
        places = better, worse
        return one._replace(completions=tuple(one.completions[p] for p in places), ratings=(1.0, 0.0))

    apart = gradient(
        [*(pair(lists[0], *two) for two in ((0, 1), (0, 2), (1, 2))), lists[1]], (1 / 6, 1 / 6, 1 / 6, 1 / 2)
    )
    model.zero_grad()
    objective = build_objective(BradleyTerryObjective(), lists)
    total = added(accumulate_gradients(scorer, make_batch(objective, lists, None), settings))
    torch.testing.assert_close(model.score.weight.grad, apart, rtol=1e-6, atol=1e-9)
    assert float(total.metrics["rewards/accuracies"].weight) == pytest.approx(2)  # prompts, not pairs
    prompt_once = len(lists[0].prompt) + sum(map(len, lists[0].completions))
    assert unique_tokens([objective.sequences(lists[0])])[0] <= prompt_once


def stored_job(folder, lora=None, **settings) -> TrainJob:
    """A job that makes a reward model of a stored language model."""
    base, tokenizer = folder / "base", tiny_tokenizer()
    save_model(tiny_model("llama", vocab_size=384), tokenizer, base)
    job = tiny_job(folder / "train", "dpo", eval_examples=pairs(8, seed=1), stop_ids=(), **settings)
    stored = StoredModel(Source(str(base)), tokenizer, folder, lora, NewHead(tokenizer, {EOS_ID}, 7))
    return TrainJob(**{**vars(job), "model": stored, "objective": make_objective("bradley_terry")})


@pytest.mark.parametrize(
    ("lora", "settings"),
    [
        pytest.param(None, {}, id="all"),
        pytest.param(LoraSection(r=4), {}, id="lora"),
        pytest.param(None, {"precision": "bf16"}, id="bf16", marks=pytest.mark.slow),
    ],
)
def test_the_written_folder_is_the_model_that_was_evaluated(tmp_path, lora, settings):
    job = stored_job(tmp_path, lora, num_train_epochs=6, **settings)
    outcome = train(job)
    losses = column(tmp_path / "train", "loss")
    assert losses[-1] < losses[0]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (loaded.config.num_labels, loaded.config.pad_token_id) == (1, tiny_tokenizer().pad_token_id)
    whole = [np.concatenate([p.prompt, p.completions[side]]) for side in (0, 1) for p in job.eval_examples]
    chosen, rejected = own_rewards(loaded, whole).chunk(2)
    wide = 0.1 if settings else 1e-4
    assert outcome.eval_metrics["eval_rewards/chosen"] == pytest.approx(float(chosen.mean()), abs=wide)
    assert outcome.eval_metrics["eval_rewards/margins"] == pytest.approx(float((chosen - rejected).mean()), abs=wide)
    assert (tmp_path / "adapter").is_dir() == (lora is not None)


def test_a_folder_with_other_rewards_stops_the_run(tmp_path, monkeypatch):
    def load_with_another_head(source, *, dtype):
        model = AutoModelForSequenceClassification.from_pretrained(source.name, dtype=getattr(torch, dtype))
        model.score.weight.data.mul_(1.01)
        return model

    monkeypatch.setattr("zephyr.train.checks.self_check.load_reward_model", load_with_another_head)
    with pytest.raises(InvariantError, match="written reward model: its rewards differ by up to"):
        train(stored_job(tmp_path))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path):
    whole, half = (stored_job(tmp_path / name, save_steps=1) for name in ("whole", "half"))
    train(whole)

    def stop(step):
        if step == 3:
            raise KeyboardInterrupt
        return {}

    every = half.settings.model_copy(update={"eval_steps": 3})
    with pytest.raises(KeyboardInterrupt):
        train(TrainJob(**{**vars(half), "settings": every, "sample": stop}))
    train(TrainJob(**{**vars(half), "settings": every}))
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "half")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
