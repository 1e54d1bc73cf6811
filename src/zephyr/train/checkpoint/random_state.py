"""The state of every random number generator that training draws from, as JSON."""

import random
from typing import cast

import numpy as np
import torch

from zephyr.train.checkpoint.optimizer_state import Json, JsonObject


def random_state(*, all_devices: bool = True) -> JsonObject:
    """The state of all generators of this process; torch's are in hexadecimal.

    Without `all_devices` only the current accelerator's is taken: on several ranks, each has its own
    device, and asking for the others would open them.
    """
    version, integers, gauss = random.getstate()
    # numpy's old global generator is nobody's choice here, but libraries still draw from it.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    torch_states: JsonObject = {"cpu": _hex(torch.get_rng_state())}
    if torch.accelerator.is_available():
        module = torch.get_device_module(torch.accelerator.current_accelerator())
        current = torch.accelerator.current_device_index()
        for index in range(torch.accelerator.device_count()) if all_devices else [current]:
            torch_states[f"device:{index}"] = _hex(module.get_rng_state(index))
    return {
        "python": [version, list(integers), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch_states,
    }


def restore_random_state(state: JsonObject) -> None:
    """Nothing; all generators go on from `state`. A device that is not here any more is passed over."""
    version, integers, gauss = cast("tuple[int, list[int], float | None]", state["python"])
    random.setstate((version, tuple(integers), gauss))
    name, keys, position, has_gauss, cached = cast("tuple[str, list[int], int, int, float]", state["numpy"])
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch_states = cast("dict[str, str]", state["torch"])
    torch.set_rng_state(_tensor(torch_states["cpu"]))
    if torch.accelerator.is_available():
        module = torch.get_device_module(torch.accelerator.current_accelerator())
        for index in range(torch.accelerator.device_count()):
            if f"device:{index}" in torch_states:
                module.set_rng_state(_tensor(torch_states[f"device:{index}"]), index)


def _hex(state: torch.Tensor) -> Json:
    return bytes(state.cpu().tolist()).hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
