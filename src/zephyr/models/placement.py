"""Where on this machine a model that only answers runs, and in which precision."""

from typing import NamedTuple

import torch


class Placement(NamedTuple):
    """A device and a dtype, by the names that `load` takes."""

    device: str
    dtype: str


def placement() -> Placement:
    """The accelerator that is there with bfloat16, else the CPU with float32."""
    # Unchecked, a torch that was built for CUDA names a GPU also where there is none.
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return Placement("cpu", "float32") if accelerator is None else Placement(str(accelerator), "bfloat16")
