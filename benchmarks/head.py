"""The head alone: our chunk loop, torch's linear_cross_entropy and plain logits in turn, in one process each.

    python benchmarks/head.py --json head.json

Forward and backward of the summed log-probs of `--rows` positions; all must agree before a time is printed. Note what
linear_cross_entropy is not asked for here: a weight of its own for every sequence, which preference losses need.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import versions

WAYS = ("ours", "linear_cross_entropy", "logits")
ROUNDS = 5


def main() -> int:
    """The exit code: 1 if the ways disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3600, help="scored positions of a micro-batch")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return 0
    found = {way: alone(way, arguments) for way in WAYS}
    spread = max(abs(one["sum"] - found["logits"]["sum"]) / abs(found["logits"]["sum"]) for one in found.values())
    for way, one in found.items():
        print(f"{way:<22}{one['seconds']:.2f} s   {one['added_gb']:.2f} GB added at the peak")
    print(f"largest relative difference of the sums {spread:.1e}")
    report = {"found": found, "difference": spread, "shape": [arguments.rows, arguments.hidden, arguments.vocab]}
    if arguments.json:
        arguments.json.write_text(json.dumps(report | {"threads": arguments.threads, **versions()}, indent=1) + "\n")
    return int(spread > 1e-5)


def alone(way: str, arguments: argparse.Namespace) -> dict:
    """The measurement of one way in a process of its own."""
    words = [f"--{name}={getattr(arguments, name)}" for name in ("rows", "hidden", "vocab", "threads")]
    command = [sys.executable, __file__, "--way", way, *words]
    run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return json.loads(run.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict:
    """Median seconds of forward and backward, the peak they add, and the sum of all log-probs."""
    import torch
    from torch.nn.functional import linear_cross_entropy

    from zephyr.trees.score import Head, edge_logps

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    hidden = torch.randn(arguments.rows, arguments.hidden, requires_grad=True)
    weight = (torch.randn(arguments.vocab, arguments.hidden) / arguments.hidden**0.5).requires_grad_()
    targets = torch.randint(arguments.vocab, (arguments.rows,))

    def total() -> torch.Tensor:
        if arguments.way == "ours":
            return edge_logps(hidden, Head(weight), targets)[0].sum()
        if arguments.way == "logits":
            return -torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
        options = torch.nn.LinearCrossEntropyOptions()
        return -linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, value = [], 0.0
    for _ in range(ROUNDS + 1):
        hidden.grad = weight.grad = None
        began = time.perf_counter()
        loss = total()
        loss.backward()
        seconds.append(time.perf_counter() - began)
        value = float(loss.detach())
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"seconds": statistics.median(seconds[1:]), "added_gb": added, "sum": value}


if __name__ == "__main__":
    sys.exit(main())
