"""Answers behind one long prefix, as a tree and packed without sharing: the same log-probs and gradient, timed.

    python benchmarks/shared_prefix.py --model 1b --json out.json     (--cpu: there, in float32; --dry-run: and tiny)

The bar is what tree training reports over a packed baseline on long shared prefixes: 6.2x (arXiv 2511.00413), 8.3x
(arXiv 2602.00482).
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from compare import circumstances
from machine import peak_device_bytes, reset_peak_memory
from shapes import SHAPES
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from zephyr.models.scorer import ForestScorer
from zephyr.recipe.train_section import TrainSection
from zephyr.train.job import build_scorer
from zephyr.trees.forest import Chain, Forest, ScoredSequence, build_forest, completion_scored

PRECISIONS = {"cpu": ("float32", torch.float32), "cuda": ("pure_bf16", torch.bfloat16)}
# How far the two sides may differ: log-probs a token, and the gradient as a share of its norm.
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (5e-2, 5e-2)}
REPEATS = 5


def main() -> int:
    """The exit code: 1 where the two sides compute something else, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=SHAPES, default="1b")
    add("--leaves", type=int, default=8, help="answers behind the prefix")
    add("--prefix", type=int, default=2000, help="tokens of the prefix")
    add(
        "--answers",
        type=int,
        nargs="+",
        default=[32, 128, 512],
        help="tokens of an answer; several are measured in turn",
    )
    add("--json", type=Path, help="write everything that was measured here")
    add("--cpu", action="store_true", help="measure on the CPU, in float32")
    add("--dry-run", action="store_true", help="a tiny model and a short prefix on the CPU")
    arguments = parser.parse_args()
    on_cpu = arguments.dry_run or arguments.cpu
    if not (on_cpu or torch.cuda.is_available()):
        print("there is no CUDA GPU here; --cpu measures without, --dry-run goes through the motions")
        return 2
    if arguments.dry_run:
        arguments.model, arguments.prefix, arguments.answers = "tiny", 200, [8, 16]
    scorer = scorer_of(arguments.model, torch.device("cpu" if on_cpu else "cuda"))
    cells = []
    for answer in arguments.answers:
        cell = {"answer": answer, "load_average_before": os.getloadavg()[0]}
        cells.append(cell | measured(scorer, sequences_of(arguments.leaves, arguments.prefix, answer)))
        print(json.dumps(cells[-1]), flush=True)
        if arguments.json:  # what there is, should the next one take too long
            report = {"table": cells, "arguments": {k: str(v) for k, v in vars(arguments).items()}} | circumstances()
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(cell["ok"] for cell in cells) else 1


def scorer_of(model: str, device: torch.device) -> ForestScorer:
    """A model of random weights, drawn on the device."""
    precision, dtype = PRECISIONS[device.type]
    torch.manual_seed(0)
    with device:
        drawn = AutoModelForCausalLM.from_config(MistralConfig(**asdict(SHAPES[model])), dtype=dtype)
    return build_scorer(drawn, TrainSection(learning_rate=1e-6, precision=precision), device)


def sequences_of(leaves: int, prefix: int, answer: int) -> list[ScoredSequence]:
    """Answers of random ids behind one prefix of random ids."""
    draw = np.random.default_rng(0)
    shared = draw.integers(3, 32_000, prefix)
    return [completion_scored(shared, draw.integers(3, 32_000, answer)) for _ in range(leaves)]


def packed(sequences: Sequence[ScoredSequence]) -> Forest:
    """The sequences one behind the other in one row, each with a prefix of its own; what trainers call packing."""
    parts, tokens, edges, chains = [], 0, 0, []
    for number, one in enumerate(map(build_forest, ([sequence] for sequence in sequences))):
        parts.append(
            replace(
                one,
                reach=one.reach + tokens,
                edge_source=one.edge_source + tokens,
                member_edge=one.member_edge + edges,
                member_sequence=one.member_sequence + number,
                last=one.last + tokens,
            )
        )
        chains += [Chain(chain.start + tokens, chain.end + tokens, ()) for chain in one.chains]
        tokens, edges = tokens + one.num_tokens, edges + one.num_edges
    names = ("ids", "position", "reach", "edge_source", "edge_target", "member_edge", "member_sequence", "last")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Forest(**joined, num_sequences=len(parts), chains=tuple(chains))


def measured(scorer: ForestScorer, sequences: Sequence[ScoredSequence]) -> dict[str, object]:
    """Seconds of forward and backward pass of both layouts, their ratio, and how far their results differ."""
    device = next(scorer.parameters()).device
    forests = {"tree": build_forest(sequences).to(device), "packed": packed(sequences).to(device)}
    logps, gradients, found = {}, {}, {}
    for name, forest in forests.items():
        logps[name], gradients[name] = result(scorer, forest)
        reset_peak_memory(device.type)
        seconds = timed(lambda forest=forest: result(scorer, forest), device)
        found[name] = {
            "seconds": seconds,
            "tokens": forest.num_tokens,
            "attended": forest.num_path_tokens,
            "peak_gib": peak_device_bytes(device.type) / 2**30,
        }
    num_tokens = max(1, int(sequences[0].scored.sum()))
    off = float((logps["tree"] - logps["packed"]).abs().max()) / num_tokens
    turned = float((gradients["tree"] - gradients["packed"]).norm() / gradients["packed"].norm())
    most_off, most_turned = TOLERANCES[next(scorer.parameters()).dtype]
    median = {name: statistics.median(one["seconds"]) for name, one in found.items()}
    return {
        "ok": off <= most_off and turned <= most_turned,
        "ratio": median["packed"] / median["tree"],
        "ratio_of_tokens": forests["packed"].num_tokens / forests["tree"].num_tokens,
        "logp_difference_a_token": off,
        "gradient_difference": turned,
    } | found


def result(scorer: ForestScorer, forest: Forest) -> tuple[Tensor, Tensor]:
    """The sequences' log-probs (N,), and the gradient of their mean at the first layer's queries."""
    logps = scorer(forest).logps
    (-logps.mean()).backward()
    weight = scorer.transformers_model.model.layers[0].self_attn.q_proj.weight
    gradient = weight.grad.double()
    scorer.zero_grad(set_to_none=True)
    return logps.detach().double(), gradient


def timed(action: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each of some calls."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
