"""The first eight minutes on one CUDA GPU, most telling first: JSON lines in one file a part, each part with a limit.

    python benchmarks/gpu_trial.py --out trial/            (--dry-run: tiny models on the CPU, to see that it runs)

A part that fails or is out of time loses nothing of the others, and is ended with all its processes. What they do is in
`gpu_parts.py`, `gpu_train.py` and `shared_prefix.py`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
# Of a part without a GPU, on a machine with other work to do.
DRY_RUN_LIMIT = 3600
# Of all parts together on a GPU. A part that begins late has what is left.
TOTAL_LIMIT = 470
# What a part needs at the least to say anything.
LEAST_SECONDS = 15
PEER = "trl"


class Part(NamedTuple):
    """A part of the trial: its most seconds, and its command, which prints JSON lines.

    With a peer it measures TRL, too, where that is there, prints a table, and writes its report with `--json`.
    """

    name: str
    limit: int
    command: tuple[str, ...]
    has_peer: bool = False


PARTS = (
    Part("attention-facts", 30, ("gpu_parts.py", "attention-facts")),
    Part("training-facts", 70, ("gpu_parts.py", "training-facts")),
    Part("step-1b", 50, ("gpu_parts.py", "profile", "1b")),
    Part("step-7b", 110, ("gpu_parts.py", "steps", "mistral-7b")),
    Part("dpo-1b-beside-trl", 75, ("gpu_train.py", *["--model", "1b", "--pairs", "64", "--synthetic"]), has_peer=True),
    Part("shared-prefix", 40, ("shared_prefix.py", "--model", "1b")),
    Part("attention", 45, ("gpu_parts.py", "attention")),
    Part("generation", 40, ("gpu_parts.py", "generation", "1b")),
    Part(
        "dpo-1b-long-prompts", 50, ("gpu_train.py", "--model", "1b", "--pairs", "32", "--long-prompts"), has_peer=True
    ),
)
# Of the same step as in step-7b. It needs no GPU, so on one it runs only where it is named.
SIMULATION = Part("simulation", 300, ("gpu_parts.py", "simulation", "mistral-7b"))


def main() -> int:
    """The exit code: 1 if a part failed or was out of time, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON lines")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", nargs="*", choices=[part.name for part in (*PARTS, SIMULATION)], help="parts by name")
    arguments = parser.parse_args()
    usual = PARTS if not arguments.dry_run else (*PARTS, SIMULATION)
    chosen = [part for part in (*PARTS, SIMULATION) if part.name in arguments.only] if arguments.only else usual
    if not (arguments.dry_run or chosen == [SIMULATION] or gpu_is_there()):
        print("there is no CUDA GPU here; --dry-run goes through the motions on the CPU")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    began, ended = time.monotonic(), []
    for part in chosen:
        left = TOTAL_LIMIT - (time.monotonic() - began)
        limit = DRY_RUN_LIMIT if arguments.dry_run else part.limit
        if not (arguments.dry_run or part is SIMULATION):
            limit = min(part.limit, left)
        line = {"part": part.name, "exit": None, "seconds": 0.0, "limit": round(limit)}
        line |= run(part, arguments.out, limit, dry_run=arguments.dry_run) if limit >= LEAST_SECONDS else {}
        print(json.dumps(line), flush=True)
        ended.append(line["exit"] == 0)
    return 0 if all(ended) else 1


def gpu_is_there() -> bool:
    """Whether torch sees a CUDA device; asked in a process of its own, so that this one holds none of its memory."""
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False).returncode == 0  # noqa: S603  # our own line


def run(part: Part, out: Path, limit: float, *, dry_run: bool) -> dict[str, object]:
    """How the part ended, None for out of time; what it printed is in the folder."""
    began, (script, *options) = time.monotonic(), part.command
    left_out = {}
    if part.has_peer and find_spec(PEER) is None:
        options, left_out = [*options, "--only-ours"], {"left out": f"{PEER}, which is not installed"}
    report = out / f"{part.name}.json"
    if part.has_peer:
        options = [*options, "--json", str(report)]
    command = [sys.executable, str(HERE / script), *options, *(["--dry-run"] if dry_run else [])]
    environment = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
    } | os.environ  # fmt: skip
    with (out / f"{part.name}.jsonl").open("w") as lines, (out / f"{part.name}.log").open("w") as log:
        # A group of its own: a process that it has started would go on, and hold the device's memory.
        started = subprocess.Popen(  # noqa: S603  # our own scripts
            command, stdout=log if part.has_peer else lines, stderr=log, env=environment, start_new_session=True
        )
        try:
            code = started.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(started)
        if part.has_peer and report.exists():
            lines.write(json.dumps(json.loads(report.read_text()) | {"ok": code == 0}) + "\n")
            report.unlink()
    return {"exit": code, "seconds": round(time.monotonic() - began, 1)} | left_out


def end_group(started: "subprocess.Popen[bytes]") -> None:
    """End whatever is left of a process and of those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


if __name__ == "__main__":
    sys.exit(main())
