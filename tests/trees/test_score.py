"""Scores equal the log softmax of all logits, whatever the chunks, and never hold all logits at once."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zephyr.trees import score as score_module
from zephyr.trees.forest import Forest, ScoredSequence, all_scored, build_forest, completion_scored
from zephyr.trees.score import Head, SequenceScores, edge_logps, score

VOCAB = 13
HIDDEN = 6


class Naive(NamedTuple):
    logps: Tensor
    mean_logits: Tensor
    entropies: Tensor


def naive_score(hidden: Tensor, head: Head, forest: Forest) -> Naive:
    """All logits of all edges at once in float64, and a loop over sequences."""
    weight, bias = head.weight.double(), None if head.bias is None else head.bias.double()
    logits = hidden.double()[forest.edge_source] @ weight.T
    logits = head.scale * (logits if bias is None else logits + bias)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logps = logits.log_softmax(-1)
    chosen = logps.gather(1, forest.edge_target[:, None]).squeeze(1)
    entropies = -(logps.exp() * logps).sum(1)
    sums, mean_logits, mean_entropies = [], [], []
    for sequence in range(forest.num_sequences):
        edges = forest.member_edge[forest.member_sequence == sequence]
        count = max(len(edges), 1)
        sums.append(chosen[edges].sum())
        mean_logits.append(logits[edges].mean(1).sum() / count)
        mean_entropies.append(entropies[edges].sum() / count)
    return Naive(torch.stack(sums), torch.stack(mean_logits), torch.stack(mean_entropies))


def pair_with_company() -> Forest:
    """Shared edges, shared prompts, an empty sequence, an unscored one, a single token, and a second mask."""
    ids = np.array([1, 2, 3, 4, 5, 6])
    empty = np.empty(0, dtype=np.int64)
    return build_forest(
        [
            completion_scored([1, 2, 3], [4, 5, 6]),
            completion_scored([1, 2, 3], [4, 5, 7, 8]),
            ScoredSequence(empty, empty.astype(np.bool_)),
            completion_scored([1, 2, 3], []),
            ScoredSequence(ids, ids > 5),
            all_scored([9]),
            all_scored([12, 0, 12, 0, 11]),
            completion_scored([1, 2, 3], [4, 5, 6]),
        ]
    )


def inputs(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states of the forest above, weight and bias, all of which want a gradient."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(pair_with_company().num_tokens, HIDDEN), (VOCAB, HIDDEN), (VOCAB,)]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]
    return drawn[0], drawn[1], drawn[2] if bias else None


def gradients(logps: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a sum with another coefficient for every sequence."""
    coefficients = torch.linspace(-1.0, 2.0, len(logps), dtype=logps.dtype)
    return torch.autograd.grad((coefficients * logps).sum(), wanted)


def assert_equals_naive(hidden: Tensor, head: Head, *, tolerance: float = 1e-12) -> SequenceScores:
    forest = pair_with_company()
    ours = score(hidden, head, forest, with_entropy=True)
    naive = naive_score(hidden, head, forest)
    torch.testing.assert_close(ours.logps, naive.logps, rtol=tolerance, atol=tolerance)
    assert ours.entropies is not None
    torch.testing.assert_close(ours.entropies, naive.entropies, rtol=tolerance, atol=tolerance)
    # A metric, and therefore in float32.
    torch.testing.assert_close(ours.mean_logits, naive.mean_logits, rtol=1e-5, atol=1e-5)
    wanted = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    for mine, right in zip(gradients(ours.logps, wanted), gradients(naive.logps, wanted), strict=True):
        torch.testing.assert_close(mine, right, rtol=tolerance, atol=tolerance)
    return ours


HEADS = [
    pytest.param(False, 1.0, None, id="plain"),
    pytest.param(True, 1.0, None, id="bias"),
    pytest.param(False, 0.0625, None, id="scale"),
    pytest.param(False, 1.0, 1.5, id="softcap"),
    pytest.param(True, 3.0, 2.0, id="bias, scale and softcap"),
]


@pytest.fixture(params=[1, 3 * VOCAB * 8, 1 << 20], ids=["a row a chunk", "three rows a chunk", "one chunk"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(score_module.CHUNK_BYTES, "cpu", request.param)
    return request.param


@pytest.fixture(params=[0, 4 * VOCAB * 8, 1 << 20], ids=["keep nothing", "keep a part", "keep all"])
def keep_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(score_module, "KEEP_BYTES", request.param)
    return request.param


@pytest.mark.parametrize(("bias", "scale", "softcap"), HEADS)
def test_values_and_gradients_equal_all_logits_at_once(
    chunk_bytes: int, keep_bytes: int, bias: bool, scale: float, softcap: float | None
) -> None:
    hidden, weight, offset = inputs(bias=bias)
    assert_equals_naive(hidden, Head(weight, offset, scale=scale, softcap=softcap))


@pytest.mark.parametrize(("bias", "scale", "softcap"), HEADS)
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, bias: bool, scale: float, softcap: float | None) -> None:
    monkeypatch.setitem(score_module.CHUNK_BYTES, "cpu", 4 * VOCAB * 8)
    monkeypatch.setattr(score_module, "KEEP_BYTES", 0)  # gradcheck runs one backward several times
    hidden, weight, offset = inputs(bias=bias)
    targets = pair_with_company().edge_target
    edge_hidden = hidden.detach()[: len(targets)].requires_grad_()

    def logps(*tensors: Tensor) -> Tensor:
        head = Head(tensors[1], tensors[2] if bias else None, scale=scale, softcap=softcap)
        return edge_logps(tensors[0], head, targets)[0]

    wanted = [tensor for tensor in (edge_hidden, weight, offset) if tensor is not None]
    assert torch.autograd.gradcheck(logps, wanted)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_wants_no_gradient_gets_none(keep_bytes: int, frozen: str) -> None:
    tensors = dict(zip(("hidden", "weight", "bias"), inputs(), strict=True))
    expected = gradients(
        naive_score(tensors["hidden"], Head(tensors["weight"], tensors["bias"]), pair_with_company()).logps,
        list(tensors.values()),
    )
    tensors[frozen] = tensors[frozen].detach()
    logps = score(tensors["hidden"], Head(tensors["weight"], tensors["bias"]), pair_with_company()).logps
    wanted = [tensor for name, tensor in tensors.items() if name != frozen]
    right = [gradient for name, gradient in zip(tensors, expected, strict=True) if name != frozen]
    torch.testing.assert_close(list(gradients(logps, wanted)), right, rtol=1e-12, atol=1e-12)


def test_same_sequence_twice_has_the_same_score_and_twice_the_gradient() -> None:
    hidden, weight, _ = inputs()
    scores = score(hidden, Head(weight), pair_with_company())
    assert scores.logps[0] == scores.logps[7]
    alone, both = (
        torch.autograd.grad(scores.logps[members].sum(), hidden, retain_graph=True)[0]
        if len(members) == 1
        else torch.autograd.grad(score(hidden, Head(weight), pair_with_company()).logps[members].sum(), hidden)[0]
        for members in ([0], [0, 7])
    )
    torch.testing.assert_close(both, 2 * alone, rtol=1e-14, atol=0)


def test_sequences_without_a_scored_token_give_zero() -> None:
    hidden, weight, bias = inputs()
    scores = score(hidden, Head(weight, bias), pair_with_company(), with_entropy=True)
    assert scores.num_tokens.tolist() == [3, 4, 0, 0, 1, 0, 4, 3]
    assert scores.entropies is not None
    nothing = scores.num_tokens == 0
    assert (torch.stack([scores.logps, scores.mean_logits, scores.entropies])[:, nothing] == 0).all()
    assert (torch.stack([scores.logps, scores.mean_logits, scores.entropies])[:, ~nothing] != 0).all()


@pytest.mark.parametrize("sequences", [[], [all_scored([])], [all_scored([3])]], ids=["none", "empty", "single"])
def test_forest_without_an_edge_has_gradient_zero(sequences: list[ScoredSequence]) -> None:
    forest = build_forest(sequences)
    hidden = torch.randn(forest.num_tokens, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCAB, HIDDEN, requires_grad=True)
    scores = score(hidden, Head(weight), forest, with_entropy=True)
    assert scores.logps.tolist() == [0.0] * len(sequences)
    scores.logps.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_metrics_are_detached_and_entropy_comes_on_demand() -> None:
    hidden, weight, bias = inputs()
    scores = score(hidden, Head(weight, bias), pair_with_company(), with_entropy=True)
    assert scores.logps.requires_grad
    assert scores.entropies is not None
    assert not scores.entropies.requires_grad
    assert not scores.mean_logits.requires_grad
    assert score(hidden, Head(weight, bias), pair_with_company()).entropies is None


def test_logits_2_1_0_by_hand() -> None:
    """Source token has hidden state 1 and the head's column is 2, 1, 0; the gold id is 0."""
    forest = build_forest([all_scored([1, 0])])
    hidden = torch.tensor([[1.0], [0.0]])
    scores = score(hidden, Head(torch.tensor([[2.0], [1.0], [0.0]])), forest, with_entropy=True)
    assert scores.logps.item() == pytest.approx(-0.407606, abs=1e-6)
    assert scores.mean_logits.item() == pytest.approx(1.0)
    assert scores.entropies is not None
    assert scores.entropies.item() == pytest.approx(0.832396, abs=1e-6)
    # Of probabilities 0.665241, 0.244728 and 0.090031 the squares add up to 0.510544.
    assert scores.collisions is not None
    assert scores.collisions.item() == pytest.approx(-0.672280, abs=2e-6)


def test_gold_probabilities_by_hand() -> None:
    """Gold at .5, .25 and .8: negative log-likelihood 2.302585, mean 0.767528, perplexity 2.154435."""
    gold = torch.tensor([0.5, 0.25, 0.8], dtype=torch.float64)
    forest = build_forest([all_scored([0, 1, 1, 1])])
    hidden = torch.cat([torch.stack([1 - gold, gold], 1).log(), torch.zeros(1, 2)])
    scores = score(hidden, Head(torch.eye(2, dtype=torch.float64)), forest)
    assert -scores.logps.item() == pytest.approx(2.302585, abs=1e-6)
    mean = -(scores.logps / scores.num_tokens).item()
    assert mean == pytest.approx(0.767528, abs=1e-6)
    assert math.exp(mean) == pytest.approx(2.154435, abs=1e-6)


def test_huge_logits_stay_finite() -> None:
    forest = build_forest([all_scored([1, 0]), all_scored([1, 2])])
    hidden = torch.tensor([[1.0], [0.0], [0.0]], requires_grad=True)
    scores = score(hidden, Head(torch.tensor([[3e4], [1e4], [-3e4]])), forest, with_entropy=True)
    assert scores.logps.tolist() == [0.0, -6e4]
    (gradient,) = torch.autograd.grad(scores.logps.sum(), hidden)
    assert gradient.isfinite().all()


def test_float32_is_near_float64(chunk_bytes: int) -> None:
    hidden, weight, bias = inputs(torch.float32)
    scores = assert_equals_naive(hidden, Head(weight, bias, scale=0.5), tolerance=2e-6)
    assert scores.logps.dtype == torch.float64


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bfloat16_is_near_float32(chunk_bytes: int, softcap: float | None) -> None:
    hidden, weight, _ = inputs(torch.bfloat16)
    forest = pair_with_company()
    scores = score(hidden, Head(weight, softcap=softcap), forest)
    naive = naive_score(hidden, Head(weight, softcap=softcap), forest)
    # bfloat16 rounds each logit (below 8 here) by at most 2 ** -7, twice as much between two of them.
    bound = 2 * 2**-6 * scores.num_tokens
    assert ((scores.logps - naive.logps).abs() <= bound).all()
    ours = gradients(scores.logps, [hidden, weight])
    for mine, right in zip(ours, gradients(naive.logps, [hidden, weight]), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - right.double()).norm() <= 2e-2 * right.double().norm()


def test_bfloat16_gradient_of_the_weight_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A big row, then 512 small ones, a chunk each and each less than half a step of bfloat16."""
    rows, small = 512, 2.0**-10
    monkeypatch.setitem(score_module.CHUNK_BYTES, "cpu", 1)
    hidden = torch.cat([torch.ones(1, 1), torch.full((rows, 1), small)]).bfloat16()
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    logps, _ = edge_logps(hidden, Head(weight), torch.zeros(rows + 1, dtype=torch.int64))
    logps.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.75], [-0.75]], "summed in bfloat16 it would stay at 0.5"


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_autocast_scores_in_the_lower_precision_and_leaves_float32_gradients(softcap: float | None) -> None:
    hidden, weight, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = score(hidden, Head(weight, softcap=softcap), pair_with_company()).logps
    exact = score(hidden, Head(weight, softcap=softcap), pair_with_company()).logps
    torch.testing.assert_close(lowered, exact, rtol=2e-2, atol=2e-2)
    assert not torch.equal(lowered, exact)
    for mine, right in zip(gradients(lowered, [hidden, weight]), gradients(exact, [hidden, weight]), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - right).norm() <= 2e-2 * right.norm()


class LargestAllocation(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        returned = operation(*arguments, **(keywords or {}))
        for tensor in torch.utils._pytree.tree_leaves(returned):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return returned


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_no_tensor_holds_the_logits_of_all_edges(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    edges, vocab, rows = 60, 500, 4
    monkeypatch.setitem(score_module.CHUNK_BYTES, "cpu", rows * vocab * 4)
    monkeypatch.setattr(score_module, "KEEP_BYTES", 0)
    forest = build_forest([all_scored(np.arange(edges + 1))])
    hidden = torch.randn(edges + 1, 3, requires_grad=True)
    weight = torch.randn(vocab, 3, requires_grad=True)
    with LargestAllocation() as seen:
        score(hidden, Head(weight, softcap=softcap), forest, with_entropy=True).logps.sum().backward()
    assert rows * vocab <= seen.elements < 2 * rows * vocab
    assert edges * vocab > 7 * seen.elements


def test_what_is_kept_for_backward_is_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, vocab, rows = 60, 500, 4
    monkeypatch.setitem(score_module.CHUNK_BYTES, "cpu", rows * vocab * 4)
    monkeypatch.setattr(score_module, "KEEP_BYTES", 5 * rows * vocab * 4 + 7)
    hidden, weight = torch.randn(edges, 3, requires_grad=True), torch.randn(vocab, 3, requires_grad=True)
    logps, _ = edge_logps(hidden, Head(weight), torch.arange(edges))
    assert logps.grad_fn is not None
    kept = logps.grad_fn.kept
    assert len(kept) == 5
    assert sum(chunk.nbytes for chunk in kept) <= score_module.KEEP_BYTES
    logps.sum().backward()
    assert kept == [None] * 5, "each is let go as soon as it is used"
    with torch.no_grad():
        assert edge_logps(hidden, Head(weight), torch.arange(edges))[0].grad_fn is None


def test_backward_twice_over_a_retained_graph() -> None:
    hidden, weight, _ = inputs()
    logps = score(hidden, Head(weight), pair_with_company()).logps
    first = torch.autograd.grad(logps.sum(), [hidden, weight], retain_graph=True)
    second = torch.autograd.grad(logps.sum(), [hidden, weight])
    torch.testing.assert_close(first, second, rtol=1e-14, atol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_hidden_states_and_weight_of_two_precisions(
    dtypes: tuple[torch.dtype, torch.dtype], softcap: float | None
) -> None:
    """Norms left in float32 before a bfloat16 head; a bfloat16 model whose head has a float32 adapter."""
    hidden, weight, _ = inputs(torch.bfloat16)
    forest = pair_with_company()
    scores = score(hidden.to(dtypes[0]), Head(weight.to(dtypes[1]), softcap=softcap), forest)
    naive = naive_score(hidden, Head(weight, softcap=softcap), forest)
    torch.testing.assert_close(scores.logps, naive.logps, rtol=2e-2, atol=2e-2)
    scores.logps.sum().backward()
    assert hidden.grad is not None
