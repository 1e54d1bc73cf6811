"""What a run on several ranks needs besides its tensors: who am I, do this everywhere, hear rank 0.

Without a process group there is one rank, and everything runs in place. Objects travel between the ranks of
one run as torch's object collectives send them; nothing of that touches a disk.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

from zephyr.errors import ZephyrError

T = TypeVar("T")


def is_distributed() -> bool:
    """True if this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def on_every_rank(action: Callable[[], T]) -> list[T]:
    """What `action` returned on each rank; if it failed on one, every rank raises that one's failure.

    OSError and ZephyrError are carried over. A rank that dies of anything else leaves the others to the
    time-out of the process group.
    """
    if not is_distributed():
        return [action()]
    outcome: tuple[T | None, Exception | None]
    try:
        outcome = (action(), None)
    except (OSError, ZephyrError) as error:
        outcome = (None, error)
    outcomes: list[tuple[T | None, Exception | None]] = [(None, None)] * world_size()
    dist.all_gather_object(outcomes, outcome)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [cast("T", result) for result, _ in outcomes]


def from_rank_zero(action: Callable[[], T]) -> T:
    """What `action` returned on rank 0, which alone runs it; its failure is raised on every rank."""
    results = on_every_rank(lambda: action() if rank() == 0 else None)
    return cast("T", results[0])
