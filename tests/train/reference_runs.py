"""Processes that fill reference stores for the tests; workers import this file, so it holds no tests.

Transformers are imported where a model is needed: the other workers start faster without.
"""

from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from tests.train.checkpoint_runs import forked
from zephyr.train.reference_store import ReferenceStore, sequence_key
from zephyr.trees.forest import ScoredSequence, all_scored, build_forest, completion_scored

MODEL = "0123456789abcdef"

Rows = list[list[ScoredSequence]]


def make_rows(num_rows: int = 12, seed: int = 0) -> Rows:
    """Pairs that share a prompt, of different lengths."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        prompt = draw.integers(4, 128, draw.integers(2, 12))
        answers = [draw.integers(4, 128, length) for length in draw.integers(1, 15, 2)]
        rows.append([completion_scored(prompt, answer) for answer in answers])
    return rows


def keys_of(rows: Rows) -> list[bytes]:
    return [sequence_key(sequence) for row in rows for sequence in row]


def key(number: int) -> bytes:
    return sequence_key(all_scored([1, 2, number]))


def append(first: int, folder: Path, go: Event) -> None:
    """Appends 40 shards of its own while reading those of others."""
    store = ReferenceStore(folder, MODEL)
    go.wait()
    for number in range(first, first + 40):
        store.missing([key(number)])
        store.add([key(number)], np.array([-float(number)]))
        store.flush()


def start_ranks(world: int, folder: Path) -> list[int | None]:
    """The exit codes of `world` gloo processes that ran `fill_on_rank`."""
    ranks = [forked().Process(target=fill_on_rank, args=(rank, world, folder)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes


def fill_on_rank(rank: int, world: int, folder: Path) -> None:
    """Fills stores, a common one and each rank's own, with a sharded model; then takes a gradient."""
    from zephyr.models.scorer import ForestScorer
    from zephyr.models.tiny import tiny_model
    from zephyr.train.reference import fill_reference

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    scorer = ForestScorer(tiny_model("mistral"))
    for layer in scorer.causal_lm.model.layers:
        fully_shard(layer)
    fully_shard(scorer, reshard_after_forward=False)

    rows = make_rows(num_rows=7)
    for name in ("common", f"own-{rank}"):
        store = ReferenceStore(folder / name, MODEL)
        heard: list[tuple[int, int]] = []
        report = fill_reference(
            store, scorer, rows, max_tokens=60, progress=lambda *now, heard=heard: heard.append(now)
        )
        assert (report.computed, report.reused) == (14, 0)
        assert heard[-1] == (7, 7)
        np.save(folder / f"{name}-seen-by-{rank}.npy", store.get(keys_of(rows)))
        again = fill_reference(store, scorer, rows, max_tokens=60)
        assert (again.computed, again.reused) == (0, 14)

    # What inference mode would leave behind in FSDP2's buffers would break this.
    scorer.train()
    scorer(build_forest(rows[rank])).logps.sum().backward()
    dist.destroy_process_group()
