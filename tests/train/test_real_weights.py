"""The checks before training on real weights: sound runs pass, planted faults are caught with the right words.

ZEPHYR_REAL_MODEL names a folder of SmolLM2-135M's weights; a run takes a minute in float32, four in bfloat16.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from tests.train.real_runs import rows_as
from tests.train.sections import make_objective
from zephyr.errors import InvariantError, ZephyrError
from zephyr.models.loading import load
from zephyr.models.own_forward import check_own_forward
from zephyr.models.rounding import measured_rounding
from zephyr.models.scorer import ForestScorer
from zephyr.models.source import Source
from zephyr.train.checks.invariants import check_layouts_agree
from zephyr.trees import forest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> str:
    named = os.environ.get("ZEPHYR_REAL_MODEL")
    if not named or not Path(named).is_dir():
        pytest.skip("ZEPHYR_REAL_MODEL names no folder of a model with real weights")
    return named


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("lora", ["", "lora"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "pure_bf16"])
def test_sound_runs_are_not_stopped(
    folder: str, tmp_path: Path, world: int, objective: str, lora: str, precision: str
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", f"{world}"]
    command = [*launch, "-m", "tests.train.real_runs", folder, str(tmp_path), objective, precision, lora]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{objective} {precision}" in done.stdout


def halved(logits: Tensor) -> Tensor:
    return logits / 2


def capped(logits: Tensor) -> Tensor:
    return 15.0 * (logits / 15.0).tanh()


def unpadded(logits: Tensor) -> Tensor:
    return logits[..., :-5000]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_planted_fault_is_caught(folder: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process loads the weights once: what its forward does is changed, then what ours does."""
    model, tokenizer = load(Source(folder), dtype="float32")
    autocast = torch.bfloat16 if precision == "bf16" else None
    scorer = ForestScorer(model, autocast=autocast).train()
    objective, examples = make_objective("dpo", {"beta": 0.1}), rows_as("dpo", tokenizer)[:3]
    sequences = [sequence for example in examples for sequence in objective.sequences(example)]
    names = [name for example in examples for name in (example.name,) * 2]
    rounding = measured_rounding(scorer, sequences, dtype=autocast or torch.float32)
    ids = [sequence.ids for sequence in sequences]
    check_own_forward(scorer, ids, rounding=rounding)

    def said() -> str:
        with pytest.raises(ZephyrError) as caught:
            check_own_forward(scorer, ids, rounding=rounding)
        return str(caught.value)

    for head, words in (
        (halved, "a head multiplier: its logits are 0.5"),
        (capped, "a soft cap of its logits"),
        (unpadded, "an unpadded vocabulary: its head gives 44152 logits, its output layer 49152"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(model, "forward", with_head(model, head))
            assert words in said()
    with monkeypatch.context() as patched:
        patched.setattr(model.model.norm, "forward", doubled_in_training(model.model.norm))
        assert "it computes something else in train mode than in eval mode" in said()
    with monkeypatch.context() as patched:
        patched.setattr(forest, "_token_vectors", running_on(forest._token_vectors))
        with pytest.raises(InvariantError, match="packed with others a sequence must keep its tokens and positions"):
            check_layouts_agree(scorer, sequences, names, rounding=rounding)


def with_head(model: PreTrainedModel, head):
    plain = model.forward
    return lambda **inputs: CausalLMOutput(logits=head(plain(**inputs).logits))


def doubled_in_training(module: torch.nn.Module):
    plain = module.forward
    return lambda hidden: plain(hidden) * (1.5 if module.training else 1.0)


def running_on(vectors):
    def counted(*arguments):
        ids, position, reach, parent = vectors(*arguments)
        return ids, np.arange(len(position)), reach, parent

    return counted
