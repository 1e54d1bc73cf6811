"""What a number was measured on: machine, versions, the machine's matmul ceiling, a process's peak memory."""

import json
import os
import platform
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = (
    "zephyr-align",
    "trl",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "peft",
    "numpy",
    "openai",
    "aiohttp",
    "httpx2",
    "flash-attn",
    "liger-kernel",
    "lm_eval",
)
CEILING_REPEATS = 5
# Of those that decide how fast a processor multiplies matrices, which it may have.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def versions() -> dict[str, str]:
    """Installed versions of everything that takes part; what is absent is left out."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, object]:
    """The machine in words and numbers."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "instructions": [one for one in INSTRUCTIONS if one in _first_value("/proc/cpuinfo", "flags").split()],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far.

    Linux hands ru_maxrss of a parent on to its children, so there the kernel's own high-water mark is read.
    """
    high_water = _first_value("/proc/self/status", "VmHWM")
    if high_water:
        return int(high_water.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: str) -> None:
    """Start the count of ``peak_device_bytes`` anew."""
    if device == "cpu":
        return
    import torch

    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()


def peak_device_bytes(device: str) -> int:
    """The most memory that tensors held on an accelerator since the count began; 0 on the CPU."""
    if device == "cpu":
        return 0
    import torch

    return torch.accelerator.max_memory_allocated()


def matmul_flops(threads: int, device: str, dtype: str, size: int) -> list[float]:
    """FLOP/s of ``CEILING_REPEATS`` square multiplications of this size, after one to warm up."""
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(CEILING_REPEATS + 1):
        start = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return [2 * size**3 / s for s in seconds[1:]]


def _first_value(path: str, key: str) -> str:
    if not Path(path).exists():
        return ""
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


if __name__ == "__main__":
    print(json.dumps(matmul_flops(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
