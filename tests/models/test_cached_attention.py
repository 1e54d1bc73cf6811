"""Attention of a step beside attention written out, and the keys and values it holds, by hand."""

from itertools import pairwise

import pytest
import torch

from zephyr.models.cached_attention import ScoreRule, Step, Stretch, attend
from zephyr.models.key_values import CAPACITIES, MORE_ROWS, CacheRow, CacheSegment, KeyValues
from zephyr.models.samples import DrawRules, Sample
from zephyr.recipe.teacher_section import SamplingSection

HEADS, KV_HEADS, SIZE = 4, 2, 8
RULES = DrawRules(SamplingSection())
GENERATOR = torch.Generator().manual_seed(0)


def drawn(num_heads, num_tokens):
    return torch.randn(num_heads, num_tokens, SIZE, generator=GENERATOR, dtype=torch.float64)


class Written:
    """Sequences token by token: the tree that shares them, and what each would be alone."""

    def __init__(self, *, window=None, softcap=None, sinks=None):
        self.held, self.window, self.sinks = KeyValues(), window, sinks
        self.scores = ScoreRule(0.3, softcap)
        self.keys: dict[CacheSegment | CacheRow, list[torch.Tensor]] = {}
        self.values: dict[CacheSegment | CacheRow, list[torch.Tensor]] = {}

    def row(self, path, num_tokens):
        """A row behind a path, and the rest of its prompt."""
        rest = segment(num_tokens, path)
        row = CacheRow(Sample([5, 6], RULES, None, seed=(0,)), path, rest, len(path))
        return row, rest

    def check(self, pools, stretches, true=None):
        """One step with random numbers; what comes out is what each token's own sequence gives.

        `true`: rows that guess two tokens, by how many of these come true.
        """
        true = true or {}
        step = Step(pools, stretches, torch.device("cpu"), dict.fromkeys(true, (7, 8)))
        count = len(step.positions)
        query, key, value = drawn(HEADS, count), drawn(KV_HEADS, count), drawn(KV_HEADS, count)
        found = attend(query, key, value, step, self.scores, window=self.window, sinks=self.sinks)
        owners = [(row, row.path) for row in step.rows for _ in range(3 if row in true else 1)]
        owners += [(one.segment, one.segment.path) for one in stretches for _ in range(one.num_tokens)]
        # All new tokens are held before any attends: a stretch may follow one of the same step.
        for token, (owner, _) in enumerate(owners):
            self.keys.setdefault(owner, []).append(key[:, token])
            self.values.setdefault(owner, []).append(value[:, token])
        for token, (owner, path) in enumerate(owners):
            own = step.positions[token] - sum(len(one.ids) for one in path) + 1
            keys, values = (
                torch.stack([one for part in path for one in kept[part]] + kept[owner][:own], 1)
                for kept in (self.keys, self.values)
            )
            assert torch.allclose(found[token], self.alone(query[:, token], keys, values), atol=1e-12)
        step.advance()
        for row, count in true.items():
            row.length += count
            for kept in (self.keys, self.values):
                kept[row] = kept[row][: len(kept[row]) - 2 + count]

    def alone(self, query, keys, values):
        """Attention (Hq, D) of the last token to keys and values (H, k, D)."""
        groups = HEADS // KV_HEADS
        keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
        scores = (keys @ query[:, :, None])[:, :, 0] * 0.3
        if self.scores.softcap is not None:
            scores = self.scores.softcap * (scores / self.scores.softcap).tanh()
        if self.window is not None:
            scores[:, : -self.window] = -torch.inf
        if self.sinks is not None:
            scores = torch.cat([scores, self.sinks[:, None]], 1)
            values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
        return (scores.softmax(-1)[:, None] @ values)[:, 0]


def segment(num_tokens, path=()):
    return CacheSegment(torch.arange(num_tokens).numpy(), path)


@pytest.mark.parametrize("cheap_bytes", [0, 1 << 19])
@pytest.mark.parametrize(
    "settings",
    [{}, {"window": 3}, {"window": 9}, {"softcap": 2.0}, {"softcap": 2.0, "window": 4}]
    + [{"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64), "window": window} for window in (None, 3)],
)
def test_every_token_attends_to_its_own_sequence(settings, cheap_bytes, monkeypatch):
    monkeypatch.setattr("zephyr.models.key_values.CHEAP_PADDING_BYTES", cheap_bytes)
    written = Written(**settings)
    root = segment(6)
    branch = segment(4, (root,))
    first, rest_of_first = written.row((root, branch), 2)
    second, rest_of_second = written.row((root, branch), 5)
    third, rest_of_third = written.row((root,), 3)
    alone, rest_of_alone = written.row((), 7)
    # A long prompt in chunks, and what follows a stretch in the step of the stretch.
    written.check([], [Stretch(root, 4)])
    written.check([], [Stretch(root, 2), Stretch(branch, 4), Stretch(rest_of_first, 2), Stretch(rest_of_alone, 3)])
    written.keys[first], written.values[first] = written.keys[rest_of_first], written.values[rest_of_first]
    written.held.place(first)
    first.sample.written.append(1)
    written.check(
        list(written.held.pools.values()),
        [Stretch(rest_of_second, 5), Stretch(rest_of_third, 3), Stretch(rest_of_alone, 4)],
    )
    for row, rest in ((second, rest_of_second), (third, rest_of_third), (alone, rest_of_alone)):
        written.keys[row], written.values[row] = written.keys[rest], written.values[rest]
        written.held.place(row)
        row.sample.written.append(1)
    # One leaves, the last row takes its place, and the others outgrow their pool.
    written.check(list(written.held.pools.values()), [])
    written.held.drop(second)
    for number in range(CAPACITIES[0] - 6):
        written.held.make_room()
        true = {3: {first: 2}, 6: {first: 0, alone: 1}, 9: {first: 2, third: 2, alone: 0}}.get(number % 10, {})
        pools = list(written.held.pools.values())
        capacity = {row: pool.capacity for pool in pools for row in pool.rows}
        written.check(pools, [], {row: count for row, count in true.items() if row.length + 3 <= capacity[row]})
    assert list(written.held.pools) == [CAPACITIES[1]]


def test_a_pool_that_most_rows_have_left_lets_go_of_their_room(monkeypatch):
    """Of 64 rows of 60 tokens all but one are dropped, or outgrow their pool: what is held is by the rows that are."""
    monkeypatch.setattr("zephyr.models.key_values.CHEAP_PADDING_BYTES", 0)
    held, rows = KeyValues(), []
    for number in range(64):
        rest = CacheSegment(torch.arange(60).numpy(), ())
        rest.write(0, 0, torch.full((1, 60, 1), number + 1.0), torch.full((1, 60, 1), -number - 1.0))
        rows.append(CacheRow(Sample([5, 6], RULES, None, seed=(0,)), (), rest, 0))
        held.place(rows[-1])
    for row in rows[1:40]:
        held.drop(row)
    for row in rows[40:]:
        row.length = CAPACITIES[0]
    held.make_room()
    shorter, longer = held.pools[CAPACITIES[0]], held.pools[CAPACITIES[1]]
    assert [len(pool.rows) for pool in (shorter, longer)] == [1, 24]
    for pool, most in ((shorter, 2 * 1 + MORE_ROWS), (longer, 2 * 24 + MORE_ROWS)):
        assert all(len(pool.rows) <= len(room) <= most for room in (*pool.keys, *pool.values))
    for pool in (shorter, longer):
        for place, row in enumerate(pool.rows):
            number = rows.index(row) + 1.0
            assert (pool.keys[0][place, 0, :60] == number).all()
            assert (pool.values[0][place, 0, :60] == -number).all()


def test_rows_share_a_pool_where_little_of_it_is_padding(monkeypatch):
    """A row of 70 beside one of 100 pads 30 tokens; a third, of 10, 90 more, of 64 bytes of keys, 64 of values."""

    def pools(*lengths, cheap_tokens):
        monkeypatch.setattr("zephyr.models.key_values.CHEAP_PADDING_BYTES", cheap_tokens * 2 * KV_HEADS * SIZE * 8)
        held = KeyValues()
        for length in lengths:
            row, rest = Written().row((), length)
            rest.write(0, 0, drawn(KV_HEADS, length), drawn(KV_HEADS, length))
            held.place(row)
            held.make_room()
        assert all(
            (pool.keys[0][place, :, : row.length] != 0).all()
            for pool in held.pools.values()
            for place, row in enumerate(pool.rows)
        )
        return {capacity: [row.length for row in pool.rows] for capacity, pool in held.pools.items()}

    assert pools(100, 70, 10, cheap_tokens=120) == {128: [100, 70, 10]}
    assert pools(100, 70, 10, cheap_tokens=119) == {128: [100, 70], 64: [10]}
    assert pools(100, 70, cheap_tokens=29) == {128: [100], 96: [70]}
    # Those that came first are moved, once.
    assert pools(70, 100, cheap_tokens=30) == {128: [100, 70]}
    assert pools(10, 70, 100, cheap_tokens=120) == {128: [100, 10, 70]}
    assert pools(70, 100, cheap_tokens=29) == {96: [70], 128: [100]}


def test_capacities_waste_at_most_a_third():
    assert sorted(set(CAPACITIES)) == CAPACITIES
    assert CAPACITIES[:7] == [64, 96, 128, 192, 256, 384, 512]
    assert all(larger <= 1.5 * smaller for smaller, larger in pairwise(CAPACITIES[2:]))


def test_segments_are_found_used_and_forgotten():
    held = KeyValues()
    root, other = CacheSegment(torch.tensor([1, 2, 3]).numpy(), ()), CacheSegment(torch.tensor([1, 2]).numpy(), ())
    leaf = CacheSegment(torch.tensor([4, 5]).numpy(), (root,))
    held.segments += [other, root, leaf]
    ids = torch.tensor([1, 2, 3, 4, 5, 6]).numpy()
    assert held.match(ids) == (root, leaf)
    assert held.match(ids[:4]) == (root,)
    assert held.match(ids[1:]) == ()
    for one in held.segments:
        one.num_computed = len(one.ids)
    row = CacheRow(Sample([1, 2, 3, 7], RULES, None, seed=(0,)), (root,), CacheSegment(ids[:1], (root,)), 1)
    held.use(row)
    # In use, or before what is in use, they stay; of the others the one that was used least lately goes first.
    assert held.forget()
    assert held.forget()
    assert held.segments == [root]
    assert not held.forget()
    held.drop(row)
    assert held.forget()
    assert held.num_tokens == 0
