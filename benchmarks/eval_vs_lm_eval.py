"""Ours and lm-eval's own class for transformers models in turn: the same requests, equal numbers, then the ratio.

    python benchmarks/eval_vs_lm_eval.py --task arc_challenge --limit 16 --json out.json
    python benchmarks/eval_vs_lm_eval.py --task gsm8k --model-folder FOLDER --json out.json

What is counted and what is not stands in ``benchmarks/README.md``.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from compare import Report, call, circumstances
from eval_side import EvalRun, EvalTask
from pairs import shared_data
from shapes import SHAPES, save_random_model

from zephyr.evaluation.harness.local_data import LOCAL_COPIES
from zephyr.models.tokenizers import learn_tokenizer

TOLERANCE = 1.0e-3
# Rounding moves a greedy token now and then, and the answer with it.
LEAST_EQUAL = 0.9
SUBJECTS = ("mmlu_abstract_algebra", "mmlu_anatomy", "mmlu_professional_law", "mmlu_world_religions")
# Shots of the Open LLM Leaderboard's first version, and documents that take a minute or two.
SETTINGS = {
    "arc_challenge": (25, 16),
    "hellaswag": (10, 16),
    "mmlu": (5, 16),
    "truthfulqa_mc2": (0, 32),
    "winogrande": (5, 128),
    # Their answers are written.
    "gsm8k": (5, 32),
    "ifeval": (0, 32),
}
# What the vocabulary is learnt from: never more than this, so that it is the same for every task and limit.
VOCABULARY_TASKS = ("arc_challenge", "truthfulqa_mc2", "winogrande", "gsm8k")
VOCABULARY_TEXTS = 6_000


def main() -> int:
    """The exit code: 1 if the two sides' numbers differ."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="zephyr-bench-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        report = measure(arguments, work)
    report |= circumstances()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return show(report)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", choices=SETTINGS, default="arc_challenge")
    add("--limit", type=int, help="documents; for MMLU of each of four subjects")
    add("--shots", type=int, help="default: those of the Open LLM Leaderboard")
    add("--model", choices=SHAPES, default="56m")
    add("--model-folder", type=Path, help="a real model instead of a random one")
    add("--max-new-tokens", type=int, default=0, help="of an answer that is written; default: the task's own")
    add("--threads", type=int, default=2)
    add("--max-tokens", type=int, default=0, help="unique tokens of one of our forests; 0: by the longest request")
    add("--peer-batch-size", type=int, default=1, help="lm-eval's own default is 1")
    add("--data", type=Path, help="folder of the local copies; default: eval in the shared data")
    add("--json", type=Path, help="write everything that was measured here")
    add("--work", type=Path, help="keep weights, tokenizer and both sides' results in this folder")
    add("--only-ours", action="store_true", help="leave the peer out")
    add("--reuse-peer", action="store_true", help="take the peer's result of the same task from --work")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, work: Path) -> Report:
    """Both sides in turn, the peer first."""
    data = arguments.data or shared_data() / "eval"
    shots, limit = SETTINGS[arguments.task]
    task = EvalTask(
        task=arguments.task,
        members=list(SUBJECTS) if arguments.task == "mmlu" else [arguments.task],
        shots=shots if arguments.shots is None else arguments.shots,
        limit=arguments.limit or limit,
        model_folder=str(arguments.model_folder or model_folder(work, arguments.model, data)),
        data_folder=str(data),
        threads=arguments.threads,
        max_tokens=arguments.max_tokens,
        peer_batch_size=arguments.peer_batch_size,
        max_new_tokens=arguments.max_new_tokens,
    )
    load = os.getloadavg()[0]
    peer = None if arguments.only_ours else side("peer", replace(task, max_tokens=0), work, reuse=arguments.reuse_peer)
    ours = side("ours", task, work)
    model = arguments.model_folder.name if arguments.model_folder else arguments.model
    settings = asdict(task) | {"model_folder": model, "data_folder": "eval"}
    report: Report = {
        "seconds": ours.seconds,
        "load_seconds": ours.load_seconds,
        "peak_rss_gb": ours.peak_rss_bytes / 1e9,
        "requests": len(ours.answers) or sum(map(len, ours.documents)),
        "documents": len(ours.answers) or len(ours.documents),
        "load_average_before": load,
        "settings": settings,
    }
    return report if peer is None else report | against(ours, peer)


def against(ours: EvalRun, peer: EvalRun) -> Report:
    """What the peer's measurement says beside ours."""
    beside: Report = {
        "peer_seconds": peer.seconds,
        "ratio": peer.seconds / ours.seconds,
        "peer_load_seconds": peer.load_seconds,
        "peer_peak_rss_gb": peer.peak_rss_bytes / 1e9,
    }
    if ours.answers:
        equal = [one == other for one, other in zip(ours.answers, peer.answers, strict=True)]
        return beside | {"answers_equal": sum(equal) / len(equal), "characters": sum(map(len, ours.answers))}
    pairs = zip(ours.documents, peer.documents, strict=True)
    return beside | {
        "max_loglikelihood_difference": max(
            abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)
        ),
        "predictions_equal": predictions(ours) == predictions(peer),
        "greedy_equal": ours.greedy == peer.greedy,
    }


def predictions(run: EvalRun) -> list[tuple[int, int]]:
    """Each document's best choice, by log-likelihood and by log-likelihood a character."""
    found = []
    for logps, lengths in zip(run.documents, run.lengths, strict=True):
        normed = [logp / max(length, 1) for logp, length in zip(logps, lengths, strict=True)]
        found.append((logps.index(max(logps)), normed.index(max(normed))))
    return found


def side(name: str, task: EvalTask, work: Path, *, reuse: bool = False) -> EvalRun:
    """The measurement of a side's process, or the one it left in the work folder before."""
    stem = f"{name}-{task.task}-{hashlib.sha256(json.dumps(asdict(task)).encode()).hexdigest()[:12]}"
    task_file, result = work / f"{stem}.task.json", work / f"{stem}.result.json"
    if not (reuse and result.exists()):
        task.save(task_file)
        print(f"{name}: {task.task}, {task.limit} documents", file=sys.stderr, flush=True)
        call(task.threads, "eval_side.py", name, str(task_file), str(result))
    return EvalRun.load(result)


def model_folder(work: Path, shape: str, data: Path) -> Path:
    """A random model with a byte-level BPE vocabulary learnt from the benchmarks' own texts, written if not there."""
    folder = work / shape
    if not (folder / "tokenizer.json").exists():
        save_random_model(SHAPES[shape], folder)
        learn_tokenizer(texts(data), vocab_size=SHAPES[shape].vocab_size, max_length=8192).save_pretrained(folder)
    return folder


def texts(data: Path) -> list[str]:
    """Documents of some tasks as JSON: close enough to their prompts for a vocabulary."""
    found: list[str] = []
    for name in VOCABULARY_TASKS:
        for docs in LOCAL_COPIES[name].load(data).values():
            found += [json.dumps(doc, ensure_ascii=False) for doc in islice(docs, VOCABULARY_TEXTS)]
    return found


def show(report: Report) -> int:
    """Print the comparison; the exit code."""
    print(f"ours: {report['seconds']:.2f} s, {report['peak_rss_gb']:.2f} GB for {report['requests']} requests")
    if "ratio" not in report:
        return 0
    print(f"peer: {report['peer_seconds']:.2f} s, {report['peer_peak_rss_gb']:.2f} GB; ratio {report['ratio']:.2f}x")
    if "answers_equal" in report:
        print(f"equal answers: {report['answers_equal']:.1%}")
        return 0 if float(report["answers_equal"]) >= LEAST_EQUAL else 1
    difference = float(report["max_loglikelihood_difference"])
    print(f"largest log-likelihood difference {difference:.1e}, predictions equal: {report['predictions_equal']}")
    if difference > TOLERANCE or not report["predictions_equal"]:
        print(f"the sides differ (tolerance {TOLERANCE:.0e}): this compares nothing")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
