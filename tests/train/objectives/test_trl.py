"""Loss and gradient of the objectives beside the trainers of TRL 1.16, which compute them from the same logits."""

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison
from zephyr.train.objectives import Scored


def trl_version() -> str:
    try:
        return version("trl")
    except PackageNotFoundError:
        return "none"


# To import TRL takes many seconds: each test does it for itself.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not trl_version().startswith("1.16."),
        reason=f"compares with TRL 1.16, got {trl_version()}: pip install 'zephyr-align[bench]'",
    ),
]
NUM_EXAMPLES, LENGTH, VOCABULARY, PROMPT = 5, 9, 11, 2
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


class Drawn:
    """Rows (C n, L) of C completions of n prompts, column by column as TRL lays them out, and logits of them."""

    def __init__(self, columns: int, *, seed: int = 0) -> None:
        drawn = np.random.default_rng(seed)
        lengths = drawn.integers(2, LENGTH - PROMPT + 1, (columns, NUM_EXAMPLES))
        self.ids = torch.from_numpy(drawn.integers(1, VOCABULARY, (columns * NUM_EXAMPLES, LENGTH)))
        place = torch.arange(LENGTH)
        ends = PROMPT + torch.from_numpy(lengths.reshape(-1, 1))
        self.mask = (place >= PROMPT) & (place < ends)
        self.attention = (place < ends).long()
        self.logits = torch.from_numpy(2 * drawn.normal(size=(*self.ids.shape, VOCABULARY))).requires_grad_()
        self.ref_logps = self.table(self._each().detach().sum(1) + torch.from_numpy(drawn.normal(size=len(self.ids))))
        self.labels = torch.zeros(NUM_EXAMPLES, columns, dtype=torch.float64)

    def table(self, rows: Tensor) -> Tensor:
        """Numbers of rows (C n,), as an objective is given them (n, C)."""
        return rows.view(-1, NUM_EXAMPLES).T

    def _each(self) -> Tensor:
        logps = self.logits[:, :-1].log_softmax(-1).gather(-1, self.ids[:, 1:, None])[..., 0]
        return logps * self.mask[:, 1:]

    def model(self, **given: object) -> SimpleNamespace:
        """What a model says of these rows: its logits, and what TRL's fused head makes of them."""
        squares = (2 * self.logits[:, :-1].log_softmax(-1)).logsumexp(-1)
        zeros = torch.zeros_like(squares)
        return SimpleNamespace(
            logits=self.logits, log_probs=self._each(), log_sum_sq_probs=squares, entropy=zeros, mean_logits=zeros,
            is_top1=zeros.bool(),
        )  # fmt: skip

    def scored(self) -> Scored:
        squares = self.model().log_sum_sq_probs.detach() * self.mask[:, 1:]
        counts = self.table(self.mask.sum(1))
        logps, collisions = self.table(self._each().sum(1)), self.table(squares.sum(1))
        return Scored(logps, counts, self.ref_logps, torch.zeros_like(logps), self.labels, collisions)

    def examples(self) -> list[Comparison]:
        found = []
        for number in range(NUM_EXAMPLES):
            rows = range(number, len(self.ids), NUM_EXAMPLES)
            answers = tuple(self.ids[row][self.mask[row]].numpy() for row in rows)
            ratings = tuple(float(value) for value in self.labels[number])
            found.append(Comparison(f"row {number}", np.arange(1, PROMPT + 1), answers, ratings))
        return found


def trainer(**settings: object) -> SimpleNamespace:
    """As much of a trainer as its loss reads."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    options = {"aux_loss_enabled": False, "_tp_size": 1, "_total_train_tokens": 0, "label_smoothing": 0.0} | settings
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return SimpleNamespace(model=SimpleNamespace(training=True), accelerator=accelerator, _metrics=metrics, **options)


def same(drawn: Drawn, name: str, options: dict[str, object], theirs: Tensor) -> None:
    """Check that an objective has this loss, and its gradient by every logit."""
    objective = make_objective(name, options)
    totals = SimpleNamespace(num_examples=NUM_EXAMPLES, num_tokens=tuple(drawn.scored().num_tokens.sum(0).tolist()))
    ours = objective.loss(drawn.scored(), totals)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, drawn.logits)[0] for loss in (ours, theirs)]
    assert gradients[1].any()
    torch.testing.assert_close(*gradients, **CLOSE)


DPO_OF = {"beta": 0.3, "ld_alpha": None, "precompute_ref_logps": True, "f_divergence_type": "reverse_kl"}
DPO_OF |= {"loss_types": ["sigmoid"], "loss_weights": [1.0], "use_weighting": False, "f_alpha_divergence_coef": 0.5}
DPO_OF |= {"args": SimpleNamespace(discopop_tau=0.05)}


def dpo_loss(drawn: Drawn, **settings: object) -> Tensor:
    chosen, rejected = drawn.ref_logps.unbind(1)
    inputs = {"input_ids": drawn.ids, "attention_mask": drawn.attention, "completion_mask": drawn.mask.long()}
    inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    from trl import DPOTrainer

    return DPOTrainer._compute_loss(trainer(**DPO_OF | settings), drawn.model, inputs, False)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "discopop"])
def test_f_divergences(divergence: str, loss_type: str) -> None:
    drawn = Drawn(2)
    smoothing = {"label_smoothing": 0.1} if loss_type == "robust" else {}
    theirs = dpo_loss(drawn, loss_types=[loss_type], f_divergence_type=divergence, **smoothing)
    same(drawn, "dpo", {"beta": 0.3, "loss_type": loss_type, "f_divergence": divergence} | smoothing, theirs)


def test_an_alpha_divergence() -> None:
    drawn = Drawn(2)
    drawn.logits = drawn.logits.detach().float().requires_grad_()  # TRL has no bound for float64
    drawn.ref_logps = drawn.ref_logps.float()
    theirs = dpo_loss(drawn, f_divergence_type="alpha_divergence")
    options = {"beta": 0.3, "f_divergence": "alpha_divergence", "f_alpha": 0.5}
    ours = make_objective("dpo", options).loss(drawn.scored(), SimpleNamespace(num_examples=NUM_EXAMPLES))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, drawn.logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "bco_pair", "apo_down", "exo_pair", "nca_pair"])
def test_wpo(loss_type: str) -> None:
    drawn = Drawn(2)
    given = {"bco_pair": {"bco_delta": 0.0}, "exo_pair": {"label_smoothing": 0.125}}.get(loss_type, {})
    theirs = dpo_loss(drawn, loss_types=[loss_type], use_weighting=True, **given)
    same(drawn, "dpo", {"beta": 0.3, "loss_type": loss_type, "use_weighting": True} | given, theirs)


@pytest.mark.parametrize("weights", [{"sigmoid": 0.8, "bco_pair": 0.2}, {"ipo": 2.0, "aot": 0.5, "sppo_hard": 0.1}])
def test_several_losses_with_weights(weights: dict[str, float]) -> None:
    drawn = Drawn(2)
    theirs = dpo_loss(drawn, loss_types=list(weights), loss_weights=list(weights.values()))
    shift = {"bco_delta": 0.0} if "bco_pair" in weights else {}
    same(drawn, "dpo", {"beta": 0.3, "loss_type": weights} | shift, theirs)


def test_mpo_with_its_imitation() -> None:
    """The mixture of MPO's authors: sigmoid, BCO and the likelihood of the chosen answer."""
    drawn = Drawn(2)
    theirs = dpo_loss(drawn, loss_types=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    options = {"beta": 0.3, "loss_type": {"sigmoid": 0.8, "bco_pair": 0.2}, "bco_delta": 0.0, "rpo_alpha": 1.0}
    same(drawn, "dpo", options, theirs)


def cpo_loss(drawn: Drawn, **settings: object) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    options = {"is_encoder_decoder": False, "pad_token_id": 0, "cpo_alpha": 1.0, "alpha": 0.0} | settings
    of_cpo = trainer(concatenated_inputs=CPOTrainer.concatenated_inputs, **options)
    of_cpo.get_batch_logps = CPOTrainer.get_batch_logps
    of_cpo.cpo_loss = lambda *logps: CPOTrainer.cpo_loss(of_cpo, *logps)
    of_cpo.concatenated_forward = lambda *given: CPOTrainer.concatenated_forward(of_cpo, *given)
    labels = drawn.ids.masked_fill(~drawn.mask, -100)
    batch = {}
    for half, rows in (("chosen", slice(0, NUM_EXAMPLES)), ("rejected", slice(NUM_EXAMPLES, None))):
        batch[f"{half}_input_ids"], batch[f"{half}_labels"] = drawn.ids[rows], labels[rows]
        batch[f"{half}_attention_mask"] = drawn.attention[rows]
    loss, _ = CPOTrainer.get_batch_loss_metrics(of_cpo, lambda *_, **__: drawn.model(), batch)
    return loss


@pytest.mark.parametrize("alpha", [0.0, 0.25, -0.5])
@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
@pytest.mark.parametrize("cpo_alpha", [0.0, 0.7])
def test_cpo_and_alphapo(loss_type: str, alpha: float, cpo_alpha: float) -> None:
    drawn = Drawn(2)
    smoothing = {"label_smoothing": 0.1} if loss_type == "sigmoid" else {}
    theirs = cpo_loss(drawn, beta=0.2, loss_type=loss_type, alpha=alpha, cpo_alpha=cpo_alpha, **smoothing)
    options = {"beta": 0.2, "loss_type": loss_type, "alpha": alpha, "cpo_alpha": cpo_alpha}
    same(drawn, "cpo", options | smoothing, theirs)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_simpo_and_alphapo(alpha: float) -> None:
    drawn = Drawn(2)
    theirs = cpo_loss(drawn, beta=2.0, loss_type="simpo", simpo_gamma=1.0, alpha=alpha, cpo_alpha=0.0)
    same(drawn, "simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5, "alpha": alpha}, theirs)


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "tpo_l"])
def test_tpo(loss_type: str) -> None:
    from trl.experimental.tpo import TPOTrainer

    drawn = Drawn(3)
    smoothing = 0.1 if loss_type in ("sigmoid", "tpo_l") else 0.0
    settings = {"beta": 0.2, "tpo_alpha": 0.5, "tpo_l_gamma": 0.3, "label_smoothing": smoothing}
    inputs = {"input_ids": drawn.ids, "attention_mask": drawn.attention, "completion_mask": drawn.mask.long()}
    of_tpo = trainer(loss_type=loss_type.replace("_", "-"), **settings)
    theirs = TPOTrainer._compute_loss(of_tpo, drawn.model, inputs, False)
    same(drawn, "tpo", settings | {"loss_type": loss_type}, theirs)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_kto(loss_type: str) -> None:
    from trl import KTOTrainer

    drawn = Drawn(2)
    has_kl = loss_type == "kto"
    columns = 2 if has_kl else 1
    drawn.labels[:, 0] = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    halves = slice(0, NUM_EXAMPLES), slice(NUM_EXAMPLES, None)
    inputs = {"input_ids": drawn.ids[halves[0]], "attention_mask": drawn.attention[halves[0]]}
    inputs |= {"completion_mask": drawn.mask[halves[0]].long(), "label": drawn.labels[:, 0].bool()}
    inputs |= {"KL_input_ids": drawn.ids[halves[1]], "KL_attention_mask": drawn.attention[halves[1]]}
    inputs |= {"KL_completion_mask": drawn.mask[halves[1]].long()}
    inputs |= {"ref_logps": drawn.ref_logps[:, 0], "ref_KL_logps": drawn.ref_logps[:, 1]}
    weights = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    of_kto = trainer(loss_type=loss_type, calculate_KL=has_kl, precompute_ref_logps=True, **weights)
    said = vars(drawn.model())

    def model(input_ids: Tensor, **_: object) -> SimpleNamespace:
        half = halves[int(torch.equal(input_ids, drawn.ids[halves[1]]))]
        return SimpleNamespace(**{name: value[half] for name, value in said.items()})

    of_kto._compute_kl_logps = lambda *given: KTOTrainer._compute_kl_logps(of_kto, *given)
    theirs = KTOTrainer._compute_loss(of_kto, model, inputs, False)
    scored = Scored(*(None if part is None else part[:, :columns] for part in drawn.scored()))
    objective = make_objective("kto", weights | {"loss_type": loss_type})
    ours = objective.loss(scored, SimpleNamespace(num_examples=NUM_EXAMPLES))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, drawn.logits)[0] for loss in (ours, theirs)), **CLOSE)


@pytest.mark.parametrize("centring", [0.0, 0.01])
@pytest.mark.parametrize("margins", [None, [0.0, 1.0, 0.5, 2.0, 0.25]])
def test_reward_models(margins: list[float] | None, centring: float) -> None:
    from trl import RewardTrainer

    rewards = torch.from_numpy(np.random.default_rng(1).normal(size=2 * NUM_EXAMPLES)).requires_grad_()
    inputs: dict[str, object] = {"attention_mask": torch.ones(2 * NUM_EXAMPLES, 3)}
    if margins is not None:
        inputs["margin"] = torch.tensor(margins, dtype=torch.float64)
    of_rewards = trainer(args=SimpleNamespace(center_rewards_coefficient=centring))
    said = SimpleNamespace(logits=rewards[:, None])
    theirs = RewardTrainer.compute_loss(of_rewards, lambda **_: said, inputs)
    labels = torch.zeros(NUM_EXAMPLES, 2, dtype=torch.float64)
    if margins is not None:
        labels[:, 0] = torch.tensor(margins, dtype=torch.float64)
    table = rewards.view(2, NUM_EXAMPLES).T
    scored = Scored(table, torch.ones(NUM_EXAMPLES, 2), None, torch.zeros_like(table), labels)
    options = {"center_rewards_coefficient": centring, "rating_margin": 0.0 if margins is None else 1.0}
    ours = make_objective("bradley_terry", options).loss(scored, SimpleNamespace(num_examples=NUM_EXAMPLES))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, rewards)[0] for loss in (ours, theirs)), **CLOSE)
