"""Ours and TRL in turn, each in its own process: same weights, same pairs, equal losses, then the ratio.

    python benchmarks/train_vs_trl.py --objective dpo --pairs 64 --json out.json

What is counted and what is not stands in ``benchmarks/README.md``.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pairs as data
from compare import Report, compare, finish, write_adapter, write_inputs
from shapes import SHAPES, needed_tokens
from task import Pair, Task

# Largest difference of two losses; in bfloat16 sums of hundreds of rounded log-probs.
LOSS_TOLERANCE = {"float32": 1.0e-4, "bf16": 0.05}
# Those of the alignment-handbook for Zephyr, of the papers, and of the handbook for adapters; held constant, since
# both sides know that schedule.
LEARNING_RATES = {"sft": 2.0e-5, "dpo": 5.0e-7, "orpo": 5.0e-6, "simpo": 5.0e-7, "kto": 5.0e-7}
LORA_LEARNING_RATES = {"sft": 2.0e-4, "dpo": 5.0e-6, "orpo": 5.0e-6, "simpo": 5.0e-6, "kto": 5.0e-6}
TABLE_CONTEXTS = (0, 256, 512)
TABLE_PAIRS_PER_STEP = (2, 8, 16)
TABLE_MODELS = ("small", "56m", "135m", "360m")


def main() -> int:
    """The exit code: 1 if the losses of the two sides differ."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="zephyr-bench-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.table:
            report: Report = {"table": list(TABLES[arguments.table](arguments, work))}
        else:
            report = measure(arguments, work, selected_pairs(arguments), arguments.pairs_per_step)
    return finish(report, arguments.json, tolerance=LOSS_TOLERANCE[arguments.precision])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--objective", choices=LEARNING_RATES, default="dpo")
    add("--lora", type=int, default=0, metavar="RANK", help="adapters on all linear layers; 0: all weights")
    add("--precision", choices=LOSS_TOLERANCE, default="float32", help="bf16: float32 weights, autocast on both sides")
    add("--pairs", type=int, default=64, help="pairs in all; a multiple of the pairs a step")
    add("--pairs-per-step", type=int, default=8, help="pairs of one optimizer step")
    add("--data", choices=("alpaca_eval", "long", "dialogues"), default="alpaca_eval")
    add("--model", choices=SHAPES, default="56m")
    add("--max-length", type=int, default=1024)
    add("--max-prompt", type=int, default=512, help="longer AlpacaEval prompts are left out")
    add("--max-unique-tokens", type=int, default=2048, help="token budget of our micro-batches")
    add("--without-self-checks", action="store_true", help="our loop leaves its run-time proofs out")
    add("--threads", type=int, default=2)
    add("--learning-rate", type=float, help="default: the alignment-handbook's for the objective")
    add("--peer-checkpointing", action="store_true", help="TRL recomputes activations: less memory, slower")
    add("--peer-micro-batch", type=int, default=0, help="pairs of one forward pass of TRL; 0: all pairs of the step")
    add("--peer-padding-free", action="store_true", help="TRL's SFT batch in one row without padding")
    add("--table", choices=TABLES, help="instead of one run: prompt share by pairs a step, or sizes of the model")
    add("--json", type=Path, help="write everything that was measured here")
    add("--work", type=Path, help="keep weights, ids and both sides' results in this folder")
    add("--only-ours", action="store_true", help="leave TRL out")
    add("--reuse-peer", action="store_true", help="take TRL's result of the same task from --work")
    arguments = parser.parse_args()
    if arguments.peer_padding_free and arguments.objective != "sft":
        parser.error("--peer-padding-free: TRL 1.16 has it for --objective sft alone")
    if arguments.peer_micro_batch and arguments.objective == "kto":
        parser.error("--peer-micro-batch: TRL estimates KTO's KL term a micro-batch, so that must be the whole step")
    for pairs_per_step in TABLE_PAIRS_PER_STEP if arguments.table == "prompts" else (arguments.pairs_per_step,):
        if arguments.pairs % pairs_per_step:
            parser.error(f"--pairs {arguments.pairs} is no multiple of {pairs_per_step} pairs a step")
        if arguments.peer_micro_batch and pairs_per_step % arguments.peer_micro_batch:
            parser.error(
                f"{pairs_per_step} pairs a step are no multiple of --peer-micro-batch {arguments.peer_micro_batch}"
            )
    return arguments


def selected_pairs(arguments: argparse.Namespace) -> list[Pair]:
    """The pairs that the command line asks for."""
    if arguments.data == "long":
        return data.long_pairs(arguments.pairs, arguments.max_length, context_tokens=arguments.max_length // 2)
    if arguments.data == "dialogues":
        return data.dialogue_pairs(arguments.pairs, arguments.max_length)
    return data.alpaca_pairs(arguments.pairs, arguments.max_length, arguments.max_prompt)


def measure(arguments: argparse.Namespace, work: Path, rows: list[Pair], pairs_per_step: int) -> Report:
    """Both sides on these pairs."""
    inputs = write_inputs(work, arguments.model, rows, "float32")
    if arguments.lora:
        inputs["adapter_folder"] = write_adapter(inputs["model_folder"], arguments.lora)
    rates = LORA_LEARNING_RATES if arguments.lora else LEARNING_RATES
    task = Task(
        objective=arguments.objective,
        pairs_per_step=pairs_per_step,
        max_length=arguments.max_length,
        max_unique_tokens=arguments.max_unique_tokens,
        self_checks=not arguments.without_self_checks,
        threads=arguments.threads,
        learning_rate=arguments.learning_rate or rates[arguments.objective],
        peer_checkpointing=arguments.peer_checkpointing,
        peer_padding_free=arguments.peer_padding_free,
        peer_micro_batch=arguments.peer_micro_batch,
        autocast=arguments.precision == "bf16",
        **inputs,
    )
    return compare(task, with_peer=not arguments.only_ours, reuse_peer=arguments.reuse_peer)


def prompts_table(arguments: argparse.Namespace, work: Path) -> Iterator[Report]:
    """A cell a row: the same answers behind ever longer contexts, at different numbers of pairs a step."""
    for num_tokens in TABLE_CONTEXTS:
        rows = data.long_pairs(arguments.pairs, arguments.max_length, context_tokens=num_tokens)
        prompt_share = sum(len(pair.prompt) for pair in rows) / needed_tokens(rows, "dpo")
        for pairs_per_step in TABLE_PAIRS_PER_STEP:
            print(f"\nprompt share {prompt_share:.0%}, {pairs_per_step} pairs a step")
            cell: Report = {"prompt_share": prompt_share, "pairs_per_step": pairs_per_step}
            yield cell | measure(arguments, work, rows, pairs_per_step)


def sizes_table(arguments: argparse.Namespace, work: Path) -> Iterator[Report]:
    """A cell a size of the model, on the same pairs."""
    rows = selected_pairs(arguments)
    for arguments.model in TABLE_MODELS:
        shape = SHAPES[arguments.model]
        print(f"\n{arguments.model}: {shape.num_parameters:,} parameters")
        cell: Report = {"model": arguments.model, "num_parameters": shape.num_parameters}
        yield cell | measure(arguments, work, rows, arguments.pairs_per_step)


TABLES = {"prompts": prompts_table, "sizes": sizes_table}


if __name__ == "__main__":
    sys.exit(main())
