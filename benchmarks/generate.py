"""Tokens a second of our generation beside transformers' `generate` and `generate_batch`, greedy, equal tokens first.

    python benchmarks/generate.py --model FOLDER --json out.json

The case is the usual one: questions of unequal length, and answers that end by themselves, here at the end of their
first line. What is counted and what is not stands in ``benchmarks/README.md``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from compare import Report, circumstances
from pairs import shared_data
from transformers import GenerationConfig, PreTrainedModel

from zephyr.models.generation import generate, stop_ids_of
from zephyr.models.loading import load
from zephyr.models.sampling import Stopping
from zephyr.models.source import Source
from zephyr.recipe.teacher_section import SamplingSection

IdTuple: TypeAlias = tuple[int, ...]
Side: TypeAlias = Callable[["Work"], list[IdTuple]]
QUESTIONS = "eval/alpaca_eval/text_davinci_003_outputs.json"
# Below this share of equal answers a side does something else: rounding moves a greedy token now and then.
LEAST_EQUAL = 0.9


class Work:
    """What every side writes: prompts, what ends an answer, and how many rows a batch has."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        loaded = load(Source(str(arguments.model)), dtype=arguments.dtype)
        self.model: PreTrainedModel = loaded.model
        self.max_new_tokens: int = arguments.max_new_tokens
        tokenizer = loaded.tokenizer
        ends = [token for token in range(len(tokenizer)) if "\n" in str(tokenizer.decode([token]))]
        self.stop_ids = tuple(sorted({*ends, *stop_ids_of(self.model, tokenizer)}))
        self.prompts: list[IdTuple] = []
        self.num_rows = 1
        for question in json.loads((shared_data() / QUESTIONS).read_text()):
            turns = [{"role": "user", "content": question["instruction"]}]
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            if len(ids) <= arguments.max_prompt_tokens:
                self.prompts.append(tuple(ids))


def ours(work: Work) -> list[IdTuple]:
    """Our answers, with so many rows at most."""
    from zephyr.models import generation

    generation.MAX_TOGETHER = work.num_rows
    sampling = SamplingSection(temperature=0, max_new_tokens=work.max_new_tokens)
    return [one.ids for one in generate(work.model, work.prompts, sampling, stop=Stopping(work.stop_ids))]


def by_generate(work: Work) -> list[IdTuple]:
    """Those of `generate`, given batches of so many prompts in their order, padded on the left as it must be."""
    return [
        answer
        for first in range(0, len(work.prompts), work.num_rows)
        for answer in _batch(work, work.prompts[first : first + work.num_rows])
    ]


def by_generate_sorted(work: Work) -> list[IdTuple]:
    """The same, given prompts of like length together, which pads least."""
    order = sorted(range(len(work.prompts)), key=lambda index: len(work.prompts[index]))
    answers: dict[int, IdTuple] = {}
    for first in range(0, len(order), work.num_rows):
        some = order[first : first + work.num_rows]
        answers |= zip(some, _batch(work, [work.prompts[index] for index in some]), strict=True)
    return [answers[index] for index in range(len(order))]


def _batch(work: Work, prompts: Sequence[IdTuple]) -> list[IdTuple]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + list(one) for one in prompts])
    attends = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    written = work.model.generate(
        ids,
        attention_mask=attends,
        do_sample=False,
        max_new_tokens=work.max_new_tokens,
        eos_token_id=list(work.stop_ids),
        pad_token_id=0,
    )
    return [_ended(row[width:].tolist(), work) for row in written]


def by_generate_batch(work: Work) -> list[IdTuple]:
    """Those of `generate_batch`, transformers' continuous batching, with its own settings."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=work.max_new_tokens, eos_token_id=list(work.stop_ids), pad_token_id=0
    )
    attention = work.model.config._attn_implementation  # noqa: SLF001 - it leaves its own behind
    try:
        found = work.model.generate_batch([list(one) for one in work.prompts], generation_config=config)
    finally:
        work.model.set_attn_implementation(attention)
    by_prompt = {tuple(one.prompt_ids): one.generated_tokens for one in found.values()}
    return [_ended(by_prompt[prompt], work) for prompt in work.prompts]


def _ended(ids: Sequence[int], work: Work) -> IdTuple:
    """The ids up to the first that ends an answer."""
    end = next((place + 1 for place, token in enumerate(ids) if token in work.stop_ids), len(ids))
    return tuple(ids[:end])


SIDES: dict[str, Side] = {
    "ours": ours,
    "generate": by_generate,
    "generate_sorted": by_generate_sorted,
    "generate_batch": by_generate_batch,
}


def main() -> int:
    """The exit code: 1 if a side's answers are not ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model's folder, with a chat template")
    add("--dtype", default="float32")
    add("--threads", type=int, default=2)
    add("--rows", type=int, nargs="*", default=[1, 8, 64])
    add("--batches", type=int, default=2, help="prompts are so many times the rows")
    add("--max-prompt-tokens", type=int, default=256)
    add("--max-new-tokens", type=int, default=128)
    add("--repeats", type=int, default=3)
    add("--sides", nargs="*", choices=SIDES, default=["ours", "generate", "generate_sorted"])
    add("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = Work(arguments)
    all_prompts, results = work.prompts, []
    for name in arguments.sides:  # what only the first call costs is nobody's speed
        work.prompts = all_prompts[:1]
        SIDES[name](work)
    for num_rows in arguments.rows:
        work.num_rows, work.prompts = num_rows, all_prompts[: num_rows * arguments.batches]
        results.append(measure(work, arguments.sides, arguments.repeats))
        print(json.dumps(results[-1]), flush=True)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    report: Report = {"settings": settings, "results": results} | circumstances()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    equal = [one["equal"] for result in results for one in result["sides"].values()]
    return int(min(equal) < LEAST_EQUAL)


def measure(work: Work, sides: Sequence[str], repeats: int) -> dict[str, object]:
    """Tokens a second of every side, in turn, each repeat anew; the tokens are those of our answers."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    # Neighbours on the machine make a process wait, but hardly compute longer.
    processor_seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, list[IdTuple]] = {}
    for _ in range(repeats):
        for name in sides:
            start, computed = time.perf_counter(), time.process_time()
            answers[name] = SIDES[name](work)
            seconds[name].append(time.perf_counter() - start)
            processor_seconds[name].append(time.process_time() - computed)
    expected = answers[sides[0]]
    num_tokens = sum(map(len, expected))
    lengths = sorted(map(len, expected))
    return {
        "rows": work.num_rows,
        "prompts": len(work.prompts),
        "prompt_tokens": [min(map(len, work.prompts)), sum(map(len, work.prompts)), max(map(len, work.prompts))],
        "answer_tokens": [lengths[0], num_tokens, lengths[-1]],
        "sides": {
            name: {
                "tokens_per_second": round(num_tokens / statistics.median(taken), 2),
                "seconds": [round(one, 2) for one in taken],
                "processor_seconds": [round(one, 2) for one in processor_seconds[name]],
                "equal": sum(a == b for a, b in zip(answers[name], expected, strict=True)) / len(expected),
                "times_as_long": _ratio(taken, seconds[sides[0]]),
                "times_the_work": _ratio(processor_seconds[name], processor_seconds[sides[0]]),
            }
            for name, taken in seconds.items()
        },
    }


def _ratio(these: Sequence[float], ours_took: Sequence[float]) -> float:
    return round(statistics.median(these) / statistics.median(ours_took), 2)


if __name__ == "__main__":
    raise SystemExit(main())
