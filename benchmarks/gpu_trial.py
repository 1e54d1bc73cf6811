"""The first eight minutes on one CUDA GPU, most telling first: JSON lines in one file a part, each part with a limit.

    python benchmarks/gpu_trial.py --out trial/            (--dry-run: tiny models on the CPU, to see that it runs)

A part that fails or is out of time loses nothing of the others. What they do is in `gpu_parts.py`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
DRY_RUN_LIMIT = 600


class Part(NamedTuple):
    """A part of the trial: its most seconds, and its command."""

    name: str
    limit: int
    command: tuple[str, ...]


PARTS = (
    Part("facts", 75, ("gpu_parts.py", "facts")),
    Part("step-1b", 60, ("gpu_parts.py", "profile", "1b")),
    Part("step-7b", 110, ("gpu_parts.py", "steps", "mistral-7b")),
    Part("attention", 45, ("gpu_parts.py", "attention")),
    Part("dpo-1b-beside-trl", 90, ("gpu_train.py", "--model", "1b", "--pairs", "64", "--synthetic")),
    Part("dpo-1b-long-prompts", 55, ("gpu_train.py", "--model", "1b", "--pairs", "32", "--long-prompts")),
    Part("generation", 45, ("gpu_parts.py", "generation", "1b")),
)
# Of the same step as in step-7b; needs no GPU, so it comes after the eight minutes.
SIMULATION = Part("simulation", 300, ("gpu_parts.py", "simulation", "mistral-7b"))


def main() -> int:
    """The exit code: 1 if a part failed or was out of time, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON lines")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", nargs="*", help="names of parts")
    arguments = parser.parse_args()
    import torch

    if not (arguments.dry_run or torch.cuda.is_available()):
        print("there is no CUDA GPU here; --dry-run goes through the motions on the CPU")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in (*PARTS, SIMULATION) if not arguments.only or part.name in arguments.only]
    ended = [run(part, arguments.out, dry_run=arguments.dry_run) for part in chosen]
    return 0 if all(ended) else 1


def run(part: Part, out: Path, *, dry_run: bool) -> bool:
    """Whether the part ended well within its limit; what it printed is in the folder."""
    began, limit = time.perf_counter(), DRY_RUN_LIMIT if dry_run else part.limit
    script, *options = part.command
    command = [sys.executable, str(HERE / script), *options, *(["--dry-run"] if dry_run else [])]
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"} | os.environ
    with (out / f"{part.name}.jsonl").open("w") as lines, (out / f"{part.name}.log").open("w") as log:
        try:
            ended = subprocess.run(  # noqa: S603  # our own scripts
                command, stdout=lines, stderr=log, timeout=limit, env=environment, check=False
            )
            code = ended.returncode
        except subprocess.TimeoutExpired:
            code = None  # out of time
    print(
        json.dumps({"part": part.name, "exit": code, "seconds": round(time.perf_counter() - began, 1), "limit": limit})
    )
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
