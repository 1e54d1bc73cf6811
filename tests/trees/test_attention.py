"""Every backend of the rule equals the eager definition, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import BlockMask
from torch.overrides import TorchFunctionMode

from zephyr.trees import sdpa
from zephyr.trees.attention import forest_attention, pick_attention
from zephyr.trees.flex import block_mask, compiled, flex_forest_attention, flex_layout
from zephyr.trees.forest import Forest, ScoredSequence, all_scored, build_forest
from zephyr.trees.rule import eager_attention, visible
from zephyr.trees.sdpa import QUERY_BLOCK, sdpa_attention, sink_attention
from zephyr.trees.varlen import VarlenPlan, varlen_attention, varlen_plan


def random_forest(seed: int, *, sequences: int = 9, longest: int = 12, tokens: int = 3) -> Forest:
    rng = np.random.default_rng(seed)
    return build_forest([all_scored(rng.integers(0, tokens, rng.integers(0, longest))) for _ in range(sequences)])


def states(forest: Forest, *, heads: int = 4, kv_heads: int = 2, dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(forest.num_tokens)
    shapes = [(1, heads, forest.num_tokens, dim)] + [(1, kv_heads, forest.num_tokens, dim)] * 2
    query, key, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    )
    return query, key, value


def looped_kernel(query: Tensor, key: Tensor, value: Tensor, plan: VarlenPlan, scale: float, left: int) -> Tensor:
    """What FlashAttention's varlen kernel computes, one slow piece after the other."""
    outputs = []
    groups = query.shape[1] // key.shape[1]
    cu_q, cu_k = plan.cumulative_queries, plan.cumulative_keys
    assert plan.longest_queries == int(cu_q.diff().max())
    assert plan.longest_keys == int(cu_k.diff().max())
    for piece in range(len(cu_q) - 1):
        q = query[cu_q[piece] : cu_q[piece + 1]].transpose(0, 1)
        k, v = (x[cu_k[piece] : cu_k[piece + 1]].transpose(0, 1).repeat_interleave(groups, 0) for x in (key, value))
        rows = torch.arange(q.shape[1])[:, None] + (k.shape[1] - q.shape[1])
        distance = rows - torch.arange(k.shape[1])[None, :]
        hidden = (distance < 0) | ((distance > left) if left >= 0 else torch.zeros_like(distance, dtype=torch.bool))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def varlen_by_loop(query: Tensor, key: Tensor, value: Tensor, forest: Forest, **options: float) -> Tensor:
    return varlen_attention(query, key, value, forest, kernel=looped_kernel, **options)  # type: ignore[arg-type]


def gradients(output: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    weights = torch.arange(output.numel(), dtype=output.dtype).reshape(output.shape).cos()
    return list(torch.autograd.grad((output * weights).sum(), inputs))


@pytest.mark.parametrize("backend", [sdpa_attention, varlen_by_loop])
@pytest.mark.parametrize("window", [None, 1, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_backend_equals_the_rule(backend: Callable[..., Tensor], window: int | None, seed: int) -> None:
    forest = random_forest(seed)
    inputs = states(forest)
    expected = eager_attention(*inputs, forest, scaling=0.3, window=window)
    output = backend(*inputs, forest, scaling=0.3, window=window)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("merged", [0, 128])
def test_sinks_are_one_more_term_of_the_softmax(
    window: int | None, merged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the definition: a column of scores beside the keys', dropped after the softmax; forward and backward."""
    monkeypatch.setattr(sdpa, "MERGED_QUERIES", merged)
    forest, sinks = random_forest(3), torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    inputs = states(forest)
    query, key, value = inputs
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    scores = scores.masked_fill(~visible(forest, window), float("-inf"))
    column = sinks[None, :, None, None].expand(*scores.shape[:-1], 1)
    expected = torch.cat([scores, column], -1).softmax(-1)[..., :-1] @ value.repeat_interleave(2, 1)
    output = sink_attention(*inputs, forest, scaling=0.3, window=window, sinks=sinks)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(output, (*inputs, sinks)), gradients(expected, (*inputs, sinks)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_float32_queries_and_keys_beside_bfloat16_values_are_those_of_bfloat16(softcap: float | None) -> None:
    """What autocast hands over: rotary embeddings leave queries and keys in float32."""
    forest = random_forest(2)
    query, key, value = (x.detach().float() for x in states(forest))
    halves = [x.bfloat16() for x in (query, key, value)]
    mixed = forest_attention(query, key, halves[2], forest, scaling=0.3, softcap=softcap)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, forest_attention(*halves, forest, scaling=0.3, softcap=softcap))
    expected = eager_attention(*halves, forest, scaling=0.3, softcap=softcap)
    torch.testing.assert_close(mixed, expected, rtol=2e-2, atol=2e-2)
    alike = forest_attention(query, key, value, forest, scaling=0.3, softcap=softcap)
    assert torch.equal(alike, sdpa_attention(query, key, value, forest, scaling=0.3, softcap=softcap))


class _ToCuda(TorchFunctionMode):
    """Inside, what is sent to CUDA stays, and whether the host would wait for it is noted."""

    def __init__(self) -> None:
        self.pinned: list[Tensor] = []
        self.waits: list[bool] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is Tensor.pin_memory:
            self.pinned.append(args[0])
            return args[0]
        if func is Tensor.to and args[1:] == (torch.device("cuda"),):
            self.waits.append(not (kwargs["non_blocking"] and any(args[0] is one for one in self.pinned)))
            return args[0]
        return func(*args, **(kwargs or {}))


def test_the_host_does_not_wait_for_the_layout_to_reach_a_gpu() -> None:
    forest = random_forest(0)
    with _ToCuda() as seen:
        varlen_plan(forest.to("cuda"), torch.device("cuda"))
    assert seen.waits == [False] * (8 + 3)


@pytest.mark.parametrize(
    ("capability", "dtype", "dim", "softcap", "expected"),
    [
        (None, torch.bfloat16, 64, None, sdpa_attention),
        ((7, 5), torch.bfloat16, 64, None, sdpa_attention),
        ((7, 0), torch.float16, 64, 30.0, sdpa_attention),
        ((8, 0), torch.bfloat16, 64, None, varlen_attention),
        ((9, 0), torch.float16, 256, None, varlen_attention),
        ((9, 0), torch.bfloat16, 288, None, flex_forest_attention),
        ((9, 0), torch.bfloat16, 64, 30.0, flex_forest_attention),
        ((9, 0), torch.float32, 64, None, flex_forest_attention),
    ],
)
def test_backend_suits_the_device_the_dtype_and_the_shape(
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    dim: int,
    softcap: float | None,
    expected: Callable[..., Tensor],
) -> None:
    heads = torch.zeros((1, 2, 1, dim), dtype=dtype)
    assert pick_attention(heads, heads, random_forest(0), softcap, capability=capability) is expected


@pytest.mark.parametrize(
    ("prompt", "answers", "expected"),
    # Of 1,000 + 8 * 100 tokens 8 * 1,100 are copied, of 1,000 + 2 * 100 only 2 * 1,100; a short row is short.
    [(1000, 8, flex_forest_attention), (1000, 2, varlen_attention), (100, 8, varlen_attention)],
)
def test_many_answers_behind_a_long_prompt_are_not_copied(
    prompt: int, answers: int, expected: Callable[..., Tensor]
) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 1000, prompt)
    rows = [np.concatenate([shared, [number], rng.integers(0, 1000, 99)]) for number in range(answers)]
    forest = build_forest([all_scored(row) for row in rows])
    assert forest.num_path_tokens == answers * (prompt + 100)
    heads = torch.empty(1, 4, forest.num_tokens, 64, dtype=torch.bfloat16)
    assert pick_attention(heads, heads, forest, None, capability=(9, 0)) is expected


@pytest.mark.parametrize("window", [None, 4])
def test_softcap_equals_the_rule(window: int | None) -> None:
    forest = random_forest(3)
    inputs = states(forest)
    expected = eager_attention(*inputs, forest, scaling=0.9, window=window, softcap=1.5)
    output = sdpa_attention(*inputs, forest, scaling=0.9, window=window, softcap=1.5)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 700])
def test_long_chain_is_cut_into_query_blocks(window: int | None) -> None:
    length = QUERY_BLOCK + 300
    trunk = np.arange(400)
    forest = build_forest(
        [all_scored([*trunk, *range(1000, 1000 + length)]), all_scored([*trunk, *range(5000, 5000 + length)])]
    )
    inputs = states(forest, heads=2, kv_heads=1, dim=4)
    expected = eager_attention(*inputs, forest, scaling=0.5, window=window)
    output = sdpa_attention(*inputs, forest, scaling=0.5, window=window)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 5, 150])
@pytest.mark.parametrize("seed", range(3))
def test_block_mask_covers_exactly_the_rule(window: int | None, seed: int) -> None:
    forest = random_forest(seed, sequences=12, longest=200, tokens=2)
    mask = block_mask(flex_layout(forest, window, torch.device("cpu")), window)
    blocks = mask.to_dense()[0, 0].bool()
    allowed = visible(forest, window)
    side = blocks.shape[0] * 128
    padded = torch.zeros(side, side, dtype=torch.bool)
    padded[: forest.num_tokens, : forest.num_tokens] = allowed
    diagonal = torch.arange(forest.num_tokens, side)
    padded[diagonal, diagonal] = True
    by_block = padded.view(len(blocks), 128, len(blocks), 128)
    assert not (by_block.any(3).any(1) & ~blocks).any(), "a visible pair lies in a skipped block"
    for row in range(len(blocks)):
        count = int(mask.full_kv_num_blocks[0, 0, row])  # type: ignore[index]
        for column in mask.full_kv_indices[0, 0, row, :count]:  # type: ignore[index]
            assert by_block[row, :, int(column)].all(), "a block called full hides a pair"


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 2.0)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_equals_the_rule(window: int | None, softcap: float | None) -> None:
    forest = random_forest(1, sequences=12, longest=60, tokens=2)
    inputs = tuple(x.detach().float() for x in states(forest, dim=16))
    options = {"scaling": 0.4, "window": window, "softcap": softcap}
    expected = eager_attention(*inputs, forest, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        output = flex_forest_attention(*inputs, forest, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 40])
def test_flex_is_compiled_once_for_all_forests(window: int | None) -> None:
    counter = CompileCounter()
    # As the models' layers call it: a compiler passes them by.
    attend = torch.compiler.disable(flex_forest_attention)
    for seed in range(5):
        forest = random_forest(seed, sequences=12, longest=80 + 20 * seed, tokens=2)
        inputs = tuple(x.detach().float() for x in states(forest, dim=16))
        expected = eager_attention(*inputs, forest, scaling=0.3, window=window)
        output = attend(*inputs, forest, scaling=0.3, window=window, kernel=compiled(counter))
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


def test_lists_by_keys_are_those_that_torch_derives() -> None:
    layout = flex_layout(random_forest(0, sequences=12, longest=200, tokens=2), 150, torch.device("cpu"))
    ours, theirs = block_mask(layout, 150), BlockMask.from_kv_blocks(*layout.partial_keys, *layout.full_keys)
    for name in ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("backend", [sdpa_attention, varlen_by_loop])
@pytest.mark.parametrize("window", [None, 5, 40, 170])
def test_short_branches_off_a_long_trunk_at_any_depth(backend: Callable[..., Tensor], window: int | None) -> None:
    """Branches masked together fork at other depths; the first to come is the deepest."""
    trunk = list(range(10, 190))
    forks = [180, 175, 20, 100, 0, 5, 179]
    forest = build_forest([all_scored([*trunk[:fork], 1000 + fork, *range(30)]) for fork in forks])
    inputs = states(forest)
    expected = eager_attention(*inputs, forest, scaling=0.3, window=window)
    output = backend(*inputs, forest, scaling=0.3, window=window)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(output, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_rule_on_a_hand_drawn_tree() -> None:
    """Tokens 1 2 fork into 3 and into 4 5; a lone tree 6 follows."""
    sequences = [[1, 2, 3], [1, 2, 4, 5], [6]]
    forest = build_forest([all_scored(ids) for ids in sequences])
    assert forest.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert visible(forest).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert visible(forest, window=2).int()[4].tolist() == [0, 0, 0, 1, 1, 0]


def test_forest_of_nothing_but_empty_sequences_has_no_tokens() -> None:
    empty = np.empty(0, dtype=np.int64)
    forest = build_forest([ScoredSequence(empty, empty.astype(bool))] * 2)
    assert (forest.num_tokens, forest.num_edges, forest.num_sequences) == (0, 0, 2)
