"""Filling the reference store: right numbers, nothing twice, whatever cut, ranks and interruptions."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.reference_runs import MODEL, keys_of, make_rows, start_ranks
from zephyr.errors import DataError, InvariantError
from zephyr.models.batch_scoring import frozen, score_table
from zephyr.models.scorer import ForestScorer
from zephyr.models.tiny import tiny_model
from zephyr.train import reference
from zephyr.train.moving_reference import mix_reference
from zephyr.train.reference import describe_reference, fill_reference
from zephyr.train.reference_store import ReferenceStore
from zephyr.trees.forest import ABSENT, build_forest, completion_scored


@pytest.fixture(scope="module")
def scorer():
    return ForestScorer(tiny_model("mistral"))


@pytest.fixture
def store(tmp_path):
    return ReferenceStore(tmp_path, MODEL)


def alone(scorer, rows):
    with torch.no_grad():
        return [float(scorer(build_forest([sequence])).logps) for row in rows for sequence in row]


def counted(scorer, monkeypatch):
    """The token ids of each forward's forest from now on."""
    calls = []
    forward = scorer.forward
    monkeypatch.setattr(scorer, "forward", lambda forest: calls.append(forest.ids.tolist()) or forward(forest))
    return calls


@pytest.mark.parametrize("max_tokens", [45, 100, 10_000])
def test_stored_values_are_those_of_each_sequence_alone(scorer, store, max_tokens):
    rows = make_rows()
    report = fill_reference(store, scorer, rows, max_tokens=max_tokens)
    assert (report.computed, report.reused) == (24, 0)
    np.testing.assert_allclose(store.get(keys_of(rows)), alone(scorer, rows), rtol=1e-6)


def test_stored_values_are_those_training_sees_to_the_bit(scorer, store):
    rows = make_rows()
    fill_reference(store, scorer, rows, max_tokens=100)
    table = score_table(scorer, rows, max_tokens=100, device=torch.device("cpu"))
    assert store.get(keys_of(rows)).tolist() == table.logps.flatten().tolist()


def test_nothing_is_computed_twice_and_what_is_new_is(scorer, store, monkeypatch, tmp_path):
    calls = counted(scorer, monkeypatch)
    rows = make_rows()
    fill_reference(store, scorer, rows[:8], max_tokens=10_000)
    assert len(calls) == 1
    report = fill_reference(ReferenceStore(tmp_path, MODEL), scorer, rows[:8], max_tokens=50)
    assert (report.computed, report.reused, len(calls)) == (0, 16, 1)
    report = fill_reference(store, scorer, rows, max_tokens=10_000)
    assert (report.computed, report.reused) == (8, 16)
    fresh = build_forest([one for row in rows[8:] for one in row])
    assert [sorted(ids) for ids in calls[1:]] == [sorted(fresh.ids.tolist())]


def test_rows_that_occur_twice_are_computed_once(scorer, store, monkeypatch):
    calls = counted(scorer, monkeypatch)
    row = make_rows(1)[0]
    report = fill_reference(store, scorer, [row, row[::-1], row], max_tokens=100)
    assert (report.computed, calls) == (2, [build_forest(row).ids.tolist()])


def test_rows_of_different_width_and_absent_columns(scorer, store):
    prompt = [5, 6, 7]
    row = [completion_scored(prompt, [8, n]) for n in (9, 10, 11)]
    rows = [row, [*row[:1], ABSENT, ABSENT], row[1:2]]
    assert fill_reference(store, scorer, rows, max_tokens=100).computed == 4
    assert store.get(keys_of([[ABSENT]])).tolist() == [0.0]


def test_no_rows_is_no_work(scorer, store):
    assert fill_reference(store, scorer, [], max_tokens=100)[:2] == (0, 0)


def test_a_damaged_shard_is_computed_again_to_the_bit(scorer, store, tmp_path, caplog):
    rows = make_rows()
    fill_reference(store, scorer, rows, max_tokens=100)
    before = store.get(keys_of(rows))
    (shard,) = store.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 16
    shard.write_bytes(content)
    again = ReferenceStore(tmp_path, MODEL)
    report = fill_reference(again, scorer, rows, max_tokens=100)
    assert report.computed == 24
    assert again.get(keys_of(rows)).tobytes() == before.tobytes()
    assert "computed again" in caplog.text


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("forwards", [1, 2, 3])
def test_an_interrupted_fill_ends_like_an_uninterrupted_one(scorer, tmp_path, monkeypatch, forwards):
    rows = make_rows(31, seed=25)  # what is left of these would be cut otherwise if it were cut alone
    calls = counted(scorer, monkeypatch)
    whole = ReferenceStore(tmp_path / "whole", MODEL)
    fill_reference(whole, scorer, rows, max_tokens=70)
    expected = calls.copy()
    calls.clear()

    monkeypatch.setattr(reference, "FLUSH_SECONDS", -1.0)  # a shard after each micro-batch

    def die(done, total):
        if len(calls) == forwards:
            raise KilledError

    with pytest.raises(KilledError):
        fill_reference(ReferenceStore(tmp_path / "cut", MODEL), scorer, rows, max_tokens=70, progress=die)
    resumed = ReferenceStore(tmp_path / "cut", MODEL)
    report = fill_reference(resumed, scorer, rows, max_tokens=70)
    assert report.computed > 0
    assert report.reused > 0
    assert resumed.get(keys_of(rows)).tobytes() == whole.get(keys_of(rows)).tobytes()
    assert calls == expected  # the same micro-batches, none of them twice


def test_a_broken_weight_stops_the_fill_and_names_the_example(store):
    broken = ForestScorer(tiny_model("mistral"))
    rows = make_rows(3)
    with torch.no_grad():
        broken.causal_lm.get_input_embeddings().weight[int(rows[2][1].ids[-2])] = torch.nan
    with pytest.raises(InvariantError) as caught:
        fill_reference(store, broken, rows, max_tokens=31, names=["row 1", "row 2", "row 3"])
    assert str(caught.value).startswith("reference log-probs: those of row 3 are not finite, got [")
    assert "check the reference for non-finite weights" in str(caught.value)
    assert store.missing(keys_of(rows[2:]))


def test_an_example_above_the_budget_is_named(scorer, store):
    with pytest.raises(DataError, match=r"pairs.jsonl row 17: holds \d+ tokens"):
        fill_reference(store, scorer, make_rows(1), max_tokens=3, names=["pairs.jsonl row 17"])


def test_ranks_share_the_work_of_a_sharded_model(scorer, tmp_path):
    assert start_ranks(2, tmp_path) == [0, 0]
    rows = make_rows(num_rows=7)
    seen = [np.load(tmp_path / f"{name}-seen-by-{rank}.npy") for rank in (0, 1) for name in ("common", f"own-{rank}")]
    np.testing.assert_allclose(seen[0], alone(scorer, rows), rtol=1e-6)
    assert [values.tobytes() for values in seen] == [seen[0].tobytes()] * 4
    for folder in ("common", "own-0", "own-1"):  # on two machines each has the whole
        assert ReferenceStore(tmp_path / folder, MODEL).get(keys_of(rows)).tobytes() == seen[0].tobytes()


def test_frozen_gives_back_each_modules_mode_and_takes_no_gradient():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9))
    model.train()
    model[0].eval()
    with frozen(model):
        assert not model[1].training
        assert not model(torch.ones(1, 2)).requires_grad
    assert [module.training for module in model.modules()] == [True, False, True]


def test_the_log_says_who_the_reference_is():
    line = describe_reference("models/sft", "abcdef0123456789" * 2)
    assert line == "reference: models/sft, weights abcdef012345"
    assert describe_reference("the policy", "ab" * 16, adapters_off=True) == (
        "reference: the policy with its adapters off, weights abababababab"
    )


def test_a_moving_reference_mixes_in_place():
    moved, policy = [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, -3.0], requires_grad=True)]
    kept = moved[0]
    mix_reference(moved, policy, mixup=0.6)
    torch.testing.assert_close(kept, torch.tensor([1.6, -1.0]))
    mix_reference(moved, policy, mixup=1.0)
    assert torch.equal(kept, policy[0])
    assert not kept.requires_grad


def test_a_moving_reference_keeps_its_precision_and_refuses_nonsense():
    moved = [torch.zeros(2, dtype=torch.bfloat16)]
    mix_reference(moved, [torch.ones(2)], mixup=0.5)
    assert moved[0].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="mixup"):
        mix_reference(moved, [torch.ones(2)], mixup=0.0)
    with pytest.raises(ValueError, match="shorter"):
        mix_reference(moved, [], mixup=0.5)
