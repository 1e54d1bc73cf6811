"""Ours and TRL in turn, each in its own process: same weights, same pairs, equal losses, then the ratio.

    python benchmarks/train_vs_trl.py --objective dpo --pairs 64 --json out.json

What is counted and what is not stands in ``benchmarks/README.md``.
"""

import argparse
import datetime as dt
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import machine
import pairs as data
from shapes import SHAPES, Shape, needed_tokens, save_random_model, training_flops
from task import Pair, Run, Task

HERE = Path(__file__).resolve().parent
COMPARED_STEPS = 8
# Those of the alignment-handbook for Zephyr; held constant, since both sides know that schedule.
LEARNING_RATES = {"sft": 2.0e-5, "dpo": 5.0e-7, "orpo": 5.0e-6}
LOSS_TOLERANCE = 1.0e-4
TABLE_CONTEXTS = (0, 256, 512)
TABLE_PAIRS_PER_STEP = (2, 8, 16)
KEYS = ("tokens_per_second", "peer_tokens_per_second", "ratio", "peak_rss_gb", "peer_peak_rss_gb")


def main() -> int:
    """The exit code: 1 if the losses of the two sides differ."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="zephyr-bench-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.table:
            report: dict[str, object] = {"table": table(arguments, work)}
            differences = [row["max_loss_difference"] for row in report["table"]]
        else:
            rows = selected_pairs(arguments)
            report = compare(task(arguments, rows, work), rows, SHAPES[arguments.model], arguments.reuse_peer)
            differences = [report["max_loss_difference"]]
    report |= {
        "command": " ".join(["python", *sys.argv]),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "versions": machine.versions(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if max(differences) > LOSS_TOLERANCE:
        print(f"the losses differ by {max(differences):.1e}, above {LOSS_TOLERANCE:.0e}: this compares nothing")
        return 1
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=("sft", "dpo", "orpo"), default="dpo")
    parser.add_argument("--pairs", type=int, default=64, help="pairs in all; a multiple of --pairs-per-step")
    parser.add_argument("--pairs-per-step", type=int, default=8, help="pairs of one optimizer step")
    parser.add_argument("--data", choices=("alpaca_eval", "long"), default="alpaca_eval")
    parser.add_argument("--model", choices=SHAPES, default="56m")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--max-prompt", type=int, default=512, help="longer AlpacaEval prompts are left out")
    parser.add_argument("--max-unique-tokens", type=int, default=4096, help="token budget of our micro-batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, help="default: the alignment-handbook's for the objective")
    parser.add_argument(
        "--peer-checkpointing", action="store_true", help="TRL recomputes activations: less memory, slower"
    )
    parser.add_argument(
        "--table", action="store_true", help="a grid of prompt share by pairs a step instead of one run"
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--work", type=Path, help="keep weights, ids and both sides' results in this folder")
    parser.add_argument("--reuse-peer", action="store_true", help="take TRL's result of the same task from --work")
    arguments = parser.parse_args()
    if arguments.pairs % arguments.pairs_per_step:
        parser.error(f"--pairs {arguments.pairs} is no multiple of --pairs-per-step {arguments.pairs_per_step}")
    return arguments


def selected_pairs(arguments: argparse.Namespace) -> list[Pair]:
    """The pairs that the command line asks for."""
    if arguments.data == "long":
        return data.long_pairs(arguments.pairs, arguments.max_length)
    return data.alpaca_pairs(arguments.pairs, arguments.max_length, arguments.max_prompt)


def task(arguments: argparse.Namespace, rows: list[Pair], work: Path) -> Task:
    """The task of both sides; writes the model's weights and the pairs' ids into ``work``."""
    model_folder = work / f"model-{arguments.model}"
    if not (model_folder / "model.safetensors").exists():
        save_random_model(SHAPES[arguments.model], model_folder)
    text = json.dumps(rows)
    pairs_file = work / f"pairs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    pairs_file.write_text(text)
    return Task(
        objective=arguments.objective,
        model_folder=str(model_folder),
        pairs_file=str(pairs_file),
        pairs_per_step=arguments.pairs_per_step,
        max_length=arguments.max_length,
        max_unique_tokens=arguments.max_unique_tokens,
        threads=arguments.threads,
        learning_rate=arguments.learning_rate or LEARNING_RATES[arguments.objective],
        peer_checkpointing=arguments.peer_checkpointing,
    )


def compare(task: Task, rows: list[Pair], shape: Shape, reuse_peer: bool = False) -> dict[str, object]:
    """Run the peer and ours, print what came out, and return it."""
    peer, reused = measured("peer_trl.py", replace(task, max_unique_tokens=0), reuse_peer)
    before = ceiling(task)
    ours, _ = measured("ours.py", task)
    matmul = before + ceiling(task)
    tokens = needed_tokens(rows, task.objective)
    flops = training_flops(rows, task.pairs_per_step, task.objective, shape)
    report = {
        "tokens_per_second": tokens / ours.seconds,
        "peer_tokens_per_second": tokens / peer.seconds,
        "ratio": peer.seconds / ours.seconds,
        "peak_rss_gb": ours.peak_rss_bytes / 1e9,
        "peer_peak_rss_gb": peer.peak_rss_bytes / 1e9,
        "max_loss_difference": max_difference(ours.losses, peer.losses),
        "ceiling_share": machine.share(flops, ours.seconds, matmul),
        "peer_ceiling_share": machine.share(flops, peer.seconds, matmul),
        "ceiling_gflops": [round(f / 1e9, 1) for f in matmul],
        "median_step_ratio": statistics.median(peer.step_seconds) / statistics.median(per_step(ours)),
        "needed_tokens": tokens,
        "training_tflops": flops / 1e12,
        "peer_reused": reused,
        "task": asdict(task),
        "ours": asdict(ours),
        "peer": asdict(peer),
    }
    show(report)
    return report


def measured(script: str, task: Task, reuse: bool = False) -> tuple[Run, bool]:
    """The result of a side's process, and whether it was there already."""
    name = hashlib.sha256(json.dumps([script, asdict(task)]).encode()).hexdigest()[:12]
    stem = Path(task.pairs_file).parent / f"{Path(script).stem}-{task.objective}-{name}"
    task_file, result = stem.with_suffix(".task.json"), stem.with_suffix(".result.json")
    reused = reuse and result.exists()
    if not reused:
        task.save(task_file)
        call(task.threads, script, str(task_file), str(result))
    return Run.load(result), reused


def ceiling(task: Task) -> list[float]:
    """FLOP/s of the machine's matmul, timed now in a process of its own."""
    return json.loads(call(task.threads, "machine.py", str(task.threads), task.device, task.dtype))


def call(threads: int, script: str, *arguments: str) -> str:
    """The last line a benchmark script prints; its process sees no network and a fixed number of threads."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with exit code {done.returncode}; its errors stand above")
    return done.stdout.strip().rpartition("\n")[2]


def per_step(run: Run) -> list[float]:
    """Seconds of each step, a reference pass of its own spread evenly over them."""
    extra = run.reference_seconds / len(run.step_seconds)
    return [seconds + extra for seconds in run.step_seconds]


def max_difference(ours: list[float], peer: list[float]) -> float:
    """The largest difference of the two sides' losses over the compared steps."""
    if len(ours) != len(peer):
        raise SystemExit(f"ours took {len(ours)} optimizer steps and the peer {len(peer)}; they must be as many")
    return max(abs(a - b) for a, b in zip(ours[:COMPARED_STEPS], peer[:COMPARED_STEPS], strict=True))


def show(report: dict[str, object]) -> None:
    """Print the comparison."""
    print(f"{'':24}{'ours':>12}{'TRL':>12}{'ratio':>10}")
    speed, peer_speed, ratio, memory, peer_memory = (report[key] for key in KEYS)
    print(f"{'needed tokens/s':24}{speed:12.1f}{peer_speed:12.1f}{ratio:9.2f}x")
    print(f"{'peak memory, GB':24}{memory:12.2f}{peer_memory:12.2f}{peer_memory / memory:9.2f}x")
    print(f"{'share of matmul ceiling':24}{report['ceiling_share']:12.1%}{report['peer_ceiling_share']:12.1%}")
    print(f"largest loss difference {report['max_loss_difference']:.1e}")


def table(arguments: argparse.Namespace, work: Path) -> list[dict[str, object]]:
    """One row a cell: the same answers behind ever longer contexts, at different numbers of pairs a step."""
    plain = data.alpaca_pairs(arguments.pairs, arguments.max_length // 4, arguments.max_length // 8)
    context = data.long_pairs(arguments.pairs, arguments.max_length)
    return list(table_rows(arguments, work, plain, context))


def table_rows(
    arguments: argparse.Namespace, work: Path, plain: list[Pair], context: list[Pair]
) -> Iterable[dict[str, object]]:
    """The cells of the table, one after the other."""
    for num_tokens in TABLE_CONTEXTS:
        rows = data.with_context(plain, context, num_tokens)
        prompt_share = sum(len(pair.prompt) for pair in rows) / needed_tokens(rows, "dpo")
        for pairs_per_step in TABLE_PAIRS_PER_STEP:
            print(f"\nprompt share {prompt_share:.0%}, {pairs_per_step} pairs a step")
            cell = replace(task(arguments, rows, work), pairs_per_step=pairs_per_step)
            report = compare(cell, rows, SHAPES[arguments.model], arguments.reuse_peer)
            yield {"prompt_share": prompt_share, "pairs_per_step": pairs_per_step} | report


if __name__ == "__main__":
    sys.exit(main())
