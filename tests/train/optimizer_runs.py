"""Fifty steps of an optimizer, on one process or several; worker processes import this file, so it holds no tests."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional

from tests.train.checkpoint_runs import IDENTITY, save
from zephyr.models.collectives import is_distributed, rank, world_size
from zephyr.recipe.train_section import OptimizerName, Precision, TrainSection
from zephyr.train.checkpoint.checkpoint import TrainingState
from zephyr.train.checkpoint.optimizer_state import optimizer_parts
from zephyr.train.checkpoint.resume import load_latest
from zephyr.train.distributed import shard_placement, weights_dtype
from zephyr.train.optimizers import build_optimizer

STEPS = 50
SAVED_AT = 25
WORDS = 101  # does not go into two


class Wide(nn.Module):
    """Rows of one block and of two, experts that are cut between their rows, and tensors too small for blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, 300)
        self.norm = nn.LayerNorm(300)
        self.experts = nn.Parameter(torch.randn(3, 64, 300) / 17)
        self.head = nn.Linear(64, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        mixed = torch.einsum("eoi,ti->to", self.experts, self.norm(self.embed(ids)))
        return self.head(torch.tanh(mixed))


class Fifty(NamedTuple):
    """The losses of a run's steps, its tensors by name, whole, and what its optimizer knows beside them."""

    losses: list[float]
    tensors: dict[str, Tensor]
    scalars: str


def fifty_steps(
    folder: Path, name: str, optim: OptimizerName, until: int = STEPS, precision: Precision = "float32"
) -> None:
    """Train to step `until`, from the run's checkpoint if there is one; every rank sees the same tokens."""
    train = TrainSection(learning_rate=1.0e-3, weight_decay=0.1, optim=optim, precision=precision)
    model = Wide().to(weights_dtype(train))
    if is_distributed():
        size = world_size()
        fully_shard(model, shard_placement_fn=lambda parameter: shard_placement(parameter, size))
    training = TrainingState(model, build_optimizer(model, train))
    progress = load_latest(folder / name, training, identity=IDENTITY)
    losses = []
    for step in range(0 if progress is None else progress.step, until):
        ids = torch.randint(0, WORDS, (64,), generator=torch.Generator().manual_seed(step))
        loss = functional.cross_entropy(model(ids), (7 * ids + 1) % WORDS)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        losses.append(float(loss.detach()))
        if step + 1 == SAVED_AT:
            save(folder / name, training, SAVED_AT)
    parts = optimizer_parts(model, training.optimizer)
    tensors = {name: _whole(tensor) for name, tensor in (model.state_dict() | parts.tensors).items()}
    if rank() == 0:
        torch.save(Fifty(losses, tensors, f"{parts.scalars}")._asdict(), folder / f"{name}.pt")


def ended(folder: Path, name: str) -> Fifty:
    return Fifty(**torch.load(folder / f"{name}.pt", weights_only=True))


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
