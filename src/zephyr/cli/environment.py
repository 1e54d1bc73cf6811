"""`zephyr env`: what a bug report needs."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import psutil
import typer

from zephyr import __version__

GIBIBYTE = 2**30
REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "bitsandbytes",
    "liger-kernel",
    "flash-attn",
    "trl",
)


def print_environment() -> None:
    """Print versions, devices, cores, memory and the processor's speed: what a bug report needs."""
    memory = psutil.virtual_memory()
    rows = [
        ("zephyr", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
        ("cores", str(count_cores())),
        ("memory", f"{memory.available / GIBIBYTE:.1f} of {memory.total / GIBIBYTE:.1f} GiB free"),
        *((name, installed_version(name)) for name in REPORTED_PACKAGES),
        *(("device", device) for device in list_devices()),
        ("matmul", describe_speed()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def describe_speed() -> str:
    """How fast the processor multiplies matrices, and which dtype `chat`, `serve` and `ui` therefore take on it."""
    from zephyr.models.matmul_speed import matmul_speed

    speed = matmul_speed()
    float32, bfloat16 = (f"{flops / 1e9:,.{0 if flops > 1e10 else 1}f}" for flops in speed)
    return f"cpu, {float32} GFLOP/s in float32, {bfloat16} in bfloat16: chat, serve and ui take {speed.dtype} on it"


def count_cores() -> int:
    """Number of cores this process may use, which a container can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(package: str) -> str:
    """The installed version of a package, or `not installed`, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def list_devices() -> list[str]:
    """One description for each device that torch can compute on, the processor first."""
    import torch

    devices = [f"cpu, {torch.get_num_threads()} threads"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return devices
    module = torch.get_device_module(accelerator)
    for index in range(torch.accelerator.device_count()):
        # Apple's backend has one device and no name for it.
        name = module.get_device_name(index) if hasattr(module, "get_device_name") else platform.machine()
        devices.append(f"{accelerator.type}:{index}, {name}")
    return devices
