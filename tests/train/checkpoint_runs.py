"""Tiny trainings for the checkpoint tests; worker processes import this file, so it holds no tests."""

import multiprocessing
import os
import pickle
import random
import resource
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # optimizers import it at first use; loaded here, forked workers start warm
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer, RMSprop

from zephyr.errors import ResourceError
from zephyr.train.checkpoint.checkpoint import Identity, Progress, TrainingState, save_checkpoint
from zephyr.train.checkpoint.resume import load_latest

IDENTITY = Identity(data_hash="d1", recipe_hash="r1", model_hash="m1")


class Tiny(nn.Module):
    """A tied head, a frozen layer, a persistent buffer, a buffer that is not, and odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(requires_grad=False)
        self.middle = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        hidden = nn.functional.dropout(self.embed(ids), 0.2)
        return self.head(torch.tanh(self.middle(self.frozen(hidden))))


def make_optimizer(kind: str, model: nn.Module) -> Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}]
    if kind == "rmsprop":
        return RMSprop(groups, lr=1.0e-2, momentum=0.5, centered=True)
    return AdamW(groups, lr=1.0e-2, fused=kind == "adamw-fused", amsgrad=kind == "adamw-amsgrad")


def make_training(kind: str = "adamw", seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    model = Tiny()
    return TrainingState(model, make_optimizer(kind, model), {"moving/reference": torch.full((3,), float(seed))})


def train_steps(training: TrainingState, num_steps: int) -> None:
    """Some steps that draw from every generator."""
    for _ in range(num_steps):
        ids = torch.randint(0, 7, (4,))
        scale = random.random() + float(np.random.rand())  # noqa: NPY002
        loss = scale * training.model(ids).square().mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        training.extra_tensors["moving/reference"].add_(0.1)


def everything(training: TrainingState) -> dict[str, Tensor]:
    """All tensors of a training, to compare to the bit."""
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    state = {
        f"{names[parameter]}.{key}": value
        for parameter, entries in training.optimizer.state.items()
        for key, value in entries.items()
    }
    tensors = {**training.model.state_dict(), **state, **training.extra_tensors}
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in tensors.items()
    }


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name


def fill(training: TrainingState, step: int) -> None:
    """Sets every tensor to what step `step` must hold."""
    with torch.no_grad():
        for index, tensor in enumerate(training.model.state_dict().values()):
            tensor.fill_(step + index)
        for parameter in training.model.parameters():
            for value in training.optimizer.state[parameter].values():
                value.fill_(step)


def save(run_folder: Path, training: TrainingState, step: int) -> Path:
    """The folder of a checkpoint of the tests' one run."""
    return save_checkpoint(run_folder, training, progress=Progress(step), identity=IDENTITY)


def save_two(run_folder: Path) -> None:
    """Saves the steps 1 and 2, each holding its own number everywhere."""
    training = make_training()
    train_steps(training, 1)
    for step in (1, 2):
        fill(training, step)
        save(run_folder, training, step)


def forked() -> ForkServerContext:
    """Where worker processes come from: a server that has torch loaded, so that each starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.checkpoint_runs", "tests.train.distributed_runs"])
    return context


def load_without_pickle(run_folder: Path, step: int) -> None:
    """Exits with 0 if the checkpoint of `step` can be loaded where nothing can be unpickled."""
    training = make_training()

    def refuse(*args: object) -> None:
        os._exit(3)

    pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
    progress = load_latest(run_folder, training, identity=IDENTITY)
    os._exit(0 if progress == Progress(step) else 4)


def save_until_killed(run_folder: Path, first_step: int, saved: Connection) -> None:
    """Saves step after step, each twice, and says which are safely on disk."""
    training = make_training()
    train_steps(training, 1)
    step = first_step
    while True:
        fill(training, step)
        for _ in range(2):
            save_checkpoint(run_folder, training, progress=Progress(step), identity=IDENTITY)
            saved.send(step)
        step += 1


def sharded(rank: int, world: int, port_file: Path) -> TrainingState:
    """A training over `world` gloo processes, every rank with the same first weights."""
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=world)
    training = make_training()
    model = training.model
    fully_shard(model.middle)
    fully_shard(model)
    torch.manual_seed(100 + rank)
    random.seed(rank)
    np.random.seed(rank)  # noqa: NPY002
    return TrainingState(model, make_optimizer("adamw", model), {"moving/reference": torch.zeros(3)})


def run_rank(rank: int, world: int, folder: Path, mode: str) -> None:
    """One rank of a distributed run: `save` trains 2 steps, saves, 2 more; `resume` does those."""
    training = sharded(rank, world, folder / f"meet-{mode}-{world}")
    run_folder = folder / "run"
    if mode == "save":
        train_steps(training, 2)
        save_checkpoint(run_folder, training, progress=Progress(2), identity=IDENTITY)
        torch.save(everything(training), folder / f"saved-{rank}.pt")
    else:
        train_steps(training, 1)  # whatever it had before is overwritten
        progress = load_latest(run_folder, training, identity=IDENTITY)
        assert progress == Progress(2)
        torch.save(everything(training), folder / f"loaded-{world}-{rank}.pt")
    if world > 1:
        train_steps(training, 2)
        torch.save(everything(training), folder / f"{mode}-end-{world}-{rank}.pt")
    dist.destroy_process_group()


def fail_on_rank(rank: int, world: int, folder: Path, mode: str) -> None:
    """Rank 1 cannot write its file: all ranks must hear of it."""
    training = sharded(rank, world, folder / f"meet-{mode}-{world}")
    train_steps(training, 1)
    save_checkpoint(folder / "run", training, progress=Progress(1), identity=IDENTITY)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        save_checkpoint(folder / "run", training, progress=Progress(2), identity=IDENTITY)
    except ResourceError as error:
        if rank == 0:
            (folder / "said").write_text(f"{error}")
    else:
        os._exit(3)
    dist.destroy_process_group()
