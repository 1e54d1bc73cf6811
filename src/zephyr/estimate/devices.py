"""What accelerators can do, from their makers' data sheets: memory, dense bfloat16 operations, links."""

from typing import NamedTuple

from zephyr.errors import RecipeError, did_you_mean

GIGA = 10**9
TERA = 10**12
GPUS_A_NODE = 8
# Share of the sheet's peak that training of a dense decoder reaches in practice, and of a link that collectives do.
UTILISATION = 0.4
LINK_SHARE = 0.7


class Device(NamedTuple):
    """One accelerator: memory in bytes, bfloat16 operations a second, bytes a second to its neighbours.

    `link`: to the others of its node, `network`: its share of what leaves the node.
    """

    name: str
    memory_bytes: int
    peak_flops: float
    link: float
    network: float


def _device(name: str, gigabytes: int, teraflops: float, link: float, network: float) -> Device:
    return Device(name, gigabytes * 2**30, teraflops * TERA, link * GIGA, network * GIGA)


_ALL = (
    _device("a100-40g", 40, 312, 300, 25),
    _device("a100-80g", 80, 312, 300, 25),
    _device("h100-80g", 80, 989, 450, 50),
    _device("h200-141g", 141, 989, 450, 50),
    _device("b200-180g", 180, 2250, 900, 50),
    _device("l40s-48g", 48, 362, 32, 25),
    _device("l4-24g", 24, 121, 32, 12.5),
    _device("a10g-24g", 24, 70, 32, 12.5),
    _device("rtx3090-24g", 24, 71, 32, 12.5),
    _device("rtx4090-24g", 24, 165, 32, 12.5),
)
ACCELERATORS = {device.name: device for device in _ALL}


def device_named(name: str) -> Device:
    """The accelerator of this name. Raises RecipeError for another."""
    found = ACCELERATORS.get(name.lower())
    if found is None:
        raise RecipeError("--gpu", f"{name!r} is not known", f"name one of the list{did_you_mean(name, ACCELERATORS)}")
    return found
