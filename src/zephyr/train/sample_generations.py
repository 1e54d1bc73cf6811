"""What the model writes while it is trained: the same prompts answered at every evaluation, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zephyr.atomic import replace_text
from zephyr.models.collectives import rank
from zephyr.models.generation import Completion, generate
from zephyr.models.loading import Tokenizer
from zephyr.models.sampling import Sampling
from zephyr.models.scorer import CausalLM, plain_model
from zephyr.train.checks.health import GENERATED_TOKENS

SAMPLES = "samples.jsonl"


def sample_writer(
    model: CausalLM, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, sampling: Sampling, folder: Path
) -> Callable[[int], dict[str, float]]:
    """A ``TrainJob.sample``: answers the prompts and writes them to ``samples.jsonl``, a line each with its step.

    It gives the mean length of the answers, which the health checks watch. Its dice are the same at every step.
    """

    def sample(step: int) -> dict[str, float]:
        completions = generate(plain_model(model), prompts, sampling)
        if rank() == 0:
            _keep(folder, step, [_as_line(step, one, prompts, tokenizer) for one in completions])
        return {GENERATED_TOKENS: float(np.mean([len(completion.ids) for completion in completions]))}

    return sample


def _as_line(
    step: int, completion: Completion, prompts: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> dict[str, str | int]:
    return {
        "step": step,
        "prompt": str(tokenizer.decode(list(prompts[completion.prompt_index]))),
        "completion": str(tokenizer.decode(list(completion.ids), skip_special_tokens=True)),
        "finish_reason": completion.finish_reason,
    }


def _keep(folder: Path, step: int, lines: Sequence[dict[str, str | int]]) -> None:
    """Write the lines behind those of earlier steps; what a run wrote after its checkpoint comes again."""
    path = folder / SAMPLES
    folder.mkdir(parents=True, exist_ok=True)
    written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    earlier = [line for line in written if json.loads(line)["step"] < step]
    replace_text(path, "\n".join([*earlier, *(json.dumps(line, ensure_ascii=False) for line in lines)]) + "\n")
