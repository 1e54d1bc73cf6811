"""Training on one CUDA GPU in bfloat16, ours and TRL in turn: tokens/s, MFU on unique tokens, peak memory.

    python benchmarks/gpu_train.py --model 1b --objective dpo --json out.json

Weights are random, nothing is downloaded; without the data folder, lengths are drawn like AlpacaEval's. TRL has
flash-attn and liger-kernel where they are installed, and the task in the JSON says so.
``--dry-run`` does everything with a tiny model on the CPU, to see that it runs; its numbers mean nothing.
"""

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pairs as data
import torch
from compare import compare, finish, write_inputs
from shapes import SHAPES
from task import Task

from zephyr.estimate.memory import memory_of
from zephyr.estimate.model_shape import ModelShape
from zephyr.estimate.row_lengths import RowLengths
from zephyr.estimate.workload import Workload
from zephyr.recipe.stage_sections import AlignSection

# Sums over hundreds of bfloat16 log-probs; equality to 1e-4 is shown in float32 by train_vs_trl.py.
LOSS_TOLERANCE = 0.05
LEARNING_RATES = {"sft": 2.0e-5, "dpo": 5.0e-7, "orpo": 5.0e-6}
# Tokens of a prompt with an answer; of a dry run.
LONGEST, DRY_LONGEST = 1024, 64
# Tokens of a micro-batch to choose from.
BUDGETS = (16_384, 8_192, 4_096, 2_048)
# Dense bfloat16 FLOP/s of the data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def main() -> int:
    """The exit code: 1 if the losses of the two sides differ, 2 without a GPU."""
    arguments = parse()
    if not (arguments.dry_run or torch.cuda.is_available()):
        print("there is no CUDA GPU here; --dry-run goes through the motions on the CPU")
        return 2
    with tempfile.TemporaryDirectory(prefix="zephyr-bench-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        task = task_of(arguments, work)
        report = compare(task, with_peer=not arguments.only_ours, reuse_peer=arguments.reuse_peer)
    report |= mfu(report) if torch.cuda.is_available() else {"dry_run": True}
    return finish(report, arguments.json, tolerance=LOSS_TOLERANCE)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--objective", choices=("sft", "dpo", "orpo"), default="dpo")
    add("--model", choices=SHAPES, default="1b")
    add("--pairs", type=int, default=256, help="pairs in all; a multiple of the pairs a step")
    add("--pairs-per-step", type=int, default=32)
    add("--peer-micro-batch", type=int, default=8, help="pairs a device of TRL's, the handbook's 8")
    add("--peer-checkpointing", action="store_true", help="TRL recomputes activations: less memory, slower")
    add("--max-unique-tokens", type=int, help="token budget of our micro-batches; default: what the plan says fits")
    add("--synthetic", action="store_true", help="random ids, needs no data folder")
    add("--long-prompts", action="store_true", help="random ids: long prompts, answers of a sixteenth of the length")
    add("--dry-run", action="store_true", help="a tiny model and few pairs on the CPU")
    add("--json", type=Path, help="write everything that was measured here")
    add("--work", type=Path, help="keep weights, ids and both sides' results in this folder")
    add("--only-ours", action="store_true", help="leave TRL out")
    add("--reuse-peer", action="store_true", help="take TRL's result of the same task from --work")
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.model, arguments.pairs, arguments.pairs_per_step, arguments.peer_micro_batch = "tiny", 4, 2, 1
    if arguments.pairs % arguments.pairs_per_step or arguments.pairs_per_step % arguments.peer_micro_batch:
        parser.error("--peer-micro-batch must divide --pairs-per-step, and that must divide --pairs")
    return arguments


def task_of(arguments: argparse.Namespace, work: Path) -> Task:
    """The task of both sides."""
    synthetic = arguments.synthetic or arguments.dry_run
    device, dtype = ("cpu", "float32") if arguments.dry_run else ("cuda", "bfloat16")
    longest = DRY_LONGEST if arguments.dry_run else LONGEST
    if arguments.long_prompts:
        rows = data.synthetic_long_pairs(arguments.pairs, longest)
    elif synthetic:
        rows = data.synthetic_pairs(arguments.pairs, longest)
    else:
        rows = data.alpaca_pairs(arguments.pairs, longest, longest // 2)
    return Task(
        objective=arguments.objective,
        pairs_per_step=arguments.pairs_per_step,
        max_length=longest,
        max_unique_tokens=arguments.max_unique_tokens or fitting_tokens(arguments.model),
        self_checks=True,
        threads=torch.get_num_threads(),
        learning_rate=LEARNING_RATES[arguments.objective],
        device=device,
        dtype=dtype,
        peer_attention="flash_attention_2" if find_spec("flash_attn") and not arguments.dry_run else "sdpa",
        peer_liger=find_spec("liger_kernel") is not None and not arguments.dry_run,
        peer_checkpointing=arguments.peer_checkpointing,
        # ORPO's likelihood term is a mean over a micro-batch, so only whole steps are comparable.
        peer_micro_batch=arguments.pairs_per_step if arguments.objective == "orpo" else arguments.peer_micro_batch,
        warm_up_steps=1,
        **write_inputs(work, arguments.model, rows, dtype, device),
    )


def fitting_tokens(model: str) -> int:
    """The largest budget for which `zephyr plan` finds room in the GPU's memory; the largest of all without a GPU."""
    if not torch.cuda.is_available():
        return BUDGETS[0]
    memory = torch.cuda.get_device_properties(0).total_memory
    return next((tokens for tokens in BUDGETS if planned_bytes(model, tokens) <= memory), BUDGETS[-1])


def planned_bytes(model: str, tokens: int) -> float:
    """What the plan says that a GPU holds of a DPO step on micro-batches of so many tokens."""
    shape, train = (
        SHAPES[model],
        {"learning_rate": 1e-6, "precision": "pure_bf16", "max_tokens_per_micro_batch": tokens},
    )
    sizes = ModelShape(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=shape.num_hidden_layers,
        num_heads=shape.num_attention_heads,
        num_kv_heads=shape.num_key_value_heads,
        head_dim=shape.hidden_size // shape.num_attention_heads,
    )
    section = AlignSection.model_validate({"objective": {"name": "dpo"}, "train": train})
    return memory_of(Workload("align", section, sizes, RowLengths(256, 195, 275, 2)), 1).total


def mfu(report: dict[str, object]) -> dict[str, object]:
    """Our share of the data sheet's peak and the device's name; 0 for a GPU whose peak is not known here."""
    device = torch.cuda.get_device_name()
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    seconds = report["needed_tokens"] / report["tokens_per_second"]
    share = report["training_tflops"] * 1e12 / seconds / peak if peak else 0.0
    print(f"{'MFU on unique tokens':26}{share:12.1%}")
    return {"device": device, "mfu": share}


if __name__ == "__main__":
    sys.exit(main())
