"""Both sides' processes run in turn, and what their two measurements say together."""

import datetime as dt
import hashlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import machine
from shapes import SHAPES, Shape, needed_tokens, save_random_model, step_passes, step_work, training_flops
from task import Pair, Run, Task

HERE = Path(__file__).resolve().parent
COMPARED_STEPS = 8
# Rows of the multiplied matrices.
CEILING_SIZES = {"tiny": 512, "cpu": 4096, "cuda": 8192}
Report = dict[str, object]


def write_inputs(work: Path, model: str, rows: list[Pair], dtype: str, device: str = "cpu") -> dict[str, str]:
    """The task's two paths: the model's weights, written if they are not there, and the pairs' ids."""
    model_folder = work / dtype / model
    if not (model_folder / "config.json").exists():
        save_random_model(SHAPES[model], model_folder, dtype, device)
    text = json.dumps(rows)
    pairs_file = work / f"pairs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    pairs_file.write_text(text)
    return {"model_folder": str(model_folder), "pairs_file": str(pairs_file)}


def write_adapter(model_folder: str, rank: int) -> str:
    """The folder of new adapters on all linear layers of a model, written if it is not there."""
    from zephyr.models.adapters import add_lora, save_adapter
    from zephyr.models.loading import load_model
    from zephyr.models.source import Source
    from zephyr.recipe.train_section import LoraSection

    folder = Path(f"{model_folder}-r{rank}")
    if not folder.exists():
        model = load_model(Source(model_folder, offline=True))
        save_adapter(add_lora(model, LoraSection(r=rank, lora_alpha=rank)), folder)
    return str(folder)


def compare(task: Task, *, with_peer: bool = True, reuse_peer: bool = False) -> Report:
    """Run the peer and ours, print what came out, and return it."""
    load = os.getloadavg()[0]  # a machine that others use too explains an odd number
    peer = measured("peer_trl.py", task.for_peer(), reuse=reuse_peer) if with_peer else None
    before = ceiling(task)
    ours = measured("ours.py", task)
    report = own_numbers(task, ours, [before, ceiling(task)]) | {"load_average_before": load}
    if peer is not None:
        report |= peer_numbers(task, ours, peer)
    show(report)
    return report


def own_numbers(task: Task, ours: Run, matmul: list[list[float]]) -> Report:
    """What our measurement says by itself, beside the matmul timed before and after it."""
    # The faster of the two: neighbours on the machine slow a matmul down too, and would flatter us.
    highest = max(statistics.median(flops) for flops in matmul)
    rows, shape = task.pairs(), shape_of(task)
    flops = training_flops(rows, task.pairs_per_step, task.objective, shape, lora=bool(task.adapter_folder))
    tokens = needed_tokens(rows, task.objective)
    return {
        "tokens_per_second": tokens / ours.seconds,
        "peak_rss_gb": ours.peak_rss_bytes / 1e9,
        "peak_device_gb": ours.peak_device_bytes / 1e9,
        "ceiling_share": flops / ours.seconds / highest,
        "step_ceiling_share": step_share(task, ours, highest),
        "first_step_seconds": ours.step_seconds[0],
        "median_step_seconds": ours.median_step_seconds,
        "ceiling_gflops": [[round(f / 1e9, 1) for f in timed] for timed in matmul],
        "needed_tokens": tokens,
        "training_tflops": flops / 1e12,
        "task": asdict(task),
        "ours": asdict(ours),
    }


def peer_numbers(task: Task, ours: Run, peer: Run) -> Report:
    """What the peer's measurement says beside ours."""
    return {
        "peer_tokens_per_second": needed_tokens(task.pairs(), task.objective) / peer.seconds,
        "ratio": peer.seconds / ours.seconds,
        "peer_first_step_seconds": peer.step_seconds[0],
        "peer_median_step_seconds": peer.median_step_seconds,
        "peer_peak_rss_gb": peer.peak_rss_bytes / 1e9,
        "peer_peak_device_gb": peer.peak_device_bytes / 1e9,
        "max_loss_difference": max_difference(ours.losses, peer.losses),
        "peer": asdict(peer),
    }


def step_share(task: Task, run: Run, matmul: float) -> float:
    """The median share of the ceiling that our steps reach, without the first and what precedes it."""
    rows, size, shape = task.pairs(), task.pairs_per_step, shape_of(task)
    steps = [rows[start : start + size] for start in range(0, len(rows), size)]
    passes = step_passes(lora=bool(task.adapter_folder))
    shares = [
        passes * step_work(step, task.objective).forward_flops(shape) / seconds / matmul
        for step, seconds in zip(steps, run.step_seconds, strict=True)
    ]
    return statistics.median(shares[1:] or shares)


def max_difference(ours: list[float], peer: list[float]) -> float:
    """The largest difference of the two sides' losses over the compared steps."""
    if len(ours) != len(peer):
        raise SystemExit(f"ours took {len(ours)} optimizer steps, the peer {len(peer)}; they must be as many")
    return max(abs(a - b) for a, b in zip(ours[:COMPARED_STEPS], peer[:COMPARED_STEPS], strict=True))


def shape_of(task: Task) -> Shape:
    """The shape of the task's model, whose folder is named after it."""
    return SHAPES[Path(task.model_folder).name]


def measured(script: str, task: Task, *, reuse: bool = False) -> Run:
    """The result of a side's process, or the one it left in the task's folder before."""
    name = hashlib.sha256(json.dumps([script, asdict(task)]).encode()).hexdigest()[:12]
    stem = Path(task.pairs_file).parent / f"{Path(script).stem}-{task.objective}-{name}"
    task_file, result = stem.with_suffix(".task.json"), stem.with_suffix(".result.json")
    if reuse and result.exists():
        return replace(Run.load(result), reused=True)
    task.save(task_file)
    print(f"{script}: {task.objective} on {len(task.pairs())} pairs", file=sys.stderr, flush=True)
    call(task.threads, script, str(task_file), str(result))
    return Run.load(result)


def ceiling(task: Task) -> list[float]:
    """FLOP/s of the machine's matmul, timed now in a process of its own."""
    # A tiny model is there to see that a benchmark runs, and its numbers mean nothing.
    tiny = Path(task.model_folder).name == "tiny"
    size = CEILING_SIZES["tiny" if tiny else task.device]
    dtype = "bfloat16" if task.autocast else task.dtype
    return json.loads(call(task.threads, "machine.py", str(task.threads), task.device, dtype, str(size)))


def call(threads: int, script: str, *arguments: str) -> str:
    """The last line a benchmark script prints; its process sees no network and a fixed number of threads."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}; its errors stand above")
    return done.stdout.strip().rpartition("\n")[2]


def show(report: Report) -> None:
    """Print the comparison."""
    has_peer = "ratio" in report
    print(f"{'':26}{'ours':>12}" + (f"{'TRL':>12}{'ratio':>10}" if has_peer else ""))
    for words, key in (
        ("needed tokens/s", "tokens_per_second"),
        ("first step and before, s", "first_step_seconds"),
        ("median later step, s", "median_step_seconds"),
        ("peak memory, GB", "peak_rss_gb"),
        ("peak device memory, GB", "peak_device_gb"),
    ):
        if report[key]:
            ours, peer = float(report[key]), float(report.get(f"peer_{key}", 0.0))
            ratio = ours / peer if has_peer and key == "tokens_per_second" else peer / ours
            print(f"{words:26}{ours:12.2f}" + (f"{peer:12.2f}{ratio:9.2f}x" if has_peer else ""))
    print(f"{'share of matmul ceiling':26}{report['ceiling_share']:12.1%}")
    print(f"{'the same, median step':26}{report['step_ceiling_share']:12.1%}")
    if has_peer:
        print(f"largest loss difference {report['max_loss_difference']:.1e}")


def circumstances() -> Report:
    """What a number needs beside it: command, date, machine, versions."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "versions": machine.versions(),
    }


def finish(report: Report, path: Path | None, *, tolerance: float) -> int:
    """Write the report and return the exit code: 1 if the two sides' losses differ."""
    report |= circumstances()
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")
    cells = report.get("table", [report])
    difference = max(float(cell.get("max_loss_difference", 0.0)) for cell in cells)
    if difference > tolerance:
        print(f"the losses differ by {difference:.1e}, above {tolerance:.0e}: this compares nothing")
        return 1
    return 0
