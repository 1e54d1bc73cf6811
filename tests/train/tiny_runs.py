"""Tiny training jobs and readers of what they leave behind; worker processes import this file: no tests in it."""

import json
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tests.train.sections import make_objective
from zephyr.data.tokenize.token_store import Comparison, Dialogue
from zephyr.models.tiny import EOS_ID, tiny_model
from zephyr.recipe.train_section import TrainSection
from zephyr.runs.layout import TRAIN_LOG
from zephyr.train.job import TrainJob

# Six steps of two epochs over 24 examples, several micro-batches a step.
SETTINGS = TrainSection(
    learning_rate=1.0e-3,
    train_batch_size=8,
    max_tokens_per_micro_batch=80,
    num_train_epochs=2,
    precision="float32",
    logging_steps=1,
    save_seconds=None,
)
OPTIONS = {
    "sft": {},
    "dpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "gamma_beta_ratio": 0.5},
    "cpo": {"beta": 0.1, "cpo_alpha": 1.0},
    "kto": {"beta": 0.1},
    "orpo": {"beta": 0.1},
    "listwise": {"beta": 0.1, "num_completions": 3},
}


def draw_ids(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    return rng.integers(5, 100, int(rng.integers(low, high)))


def answer(rng: np.random.Generator) -> np.ndarray:
    """A completion that ends with the stop token."""
    return np.append(draw_ids(rng, 3, 9), EOS_ID)


def pairs(num: int = 24, seed: int = 0) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    return [
        Comparison(f"pairs.jsonl row {n + 1}", draw_ids(rng, 4, 10), (answer(rng), answer(rng)), (1.0, 0.0))
        for n in range(num)
    ]


def examples_for(objective: str, num: int = 24, seed: int = 0) -> list[Dialogue] | list[Comparison]:
    """Examples that the objective can learn from, cut out of the same pairs."""
    compared = pairs(num, seed)
    rng = np.random.default_rng([seed, 1])
    match objective:
        case "sft":
            joined = [np.concatenate([pair.prompt, pair.completions[0]]) for pair in compared]
            return [
                Dialogue(pair.name, ids, np.arange(len(ids)) >= len(pair.prompt))
                for pair, ids in zip(compared, joined, strict=True)
            ]
        case "kto":
            return [
                pair._replace(completions=pair.completions[n % 2 :][:1], ratings=(float(n % 2 == 0),))
                for n, pair in enumerate(compared)
            ]
        case "listwise":
            return [
                pair._replace(completions=(*pair.completions, answer(rng)), ratings=(1.0, 0.5, 0.1)) if n % 3 else pair
                for n, pair in enumerate(compared)
            ]
        case _:
            return compared


def tiny_job(folder: Path, objective: str = "dpo", **changes: object) -> TrainJob:
    """A job of two epochs; what is named like a field of the job, a setting or an option is changed."""
    fields = {name: changes.pop(name) for name in list(changes) if name in TrainJob.__dataclass_fields__}
    settings = {name: changes.pop(name) for name in list(changes) if name in TrainSection.model_fields}
    job = {
        "model": tiny_model("mistral") if "model" not in fields else None,
        "settings": TrainSection(**(SETTINGS.model_dump() | settings)),
        "examples": examples_for(objective),
        "folder": folder,
        "stop_ids": (EOS_ID,),
    }
    return TrainJob(objective=make_objective(objective, {**OPTIONS[objective], **changes}), **job | fields)


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]


def column(folder: Path, name: str) -> list[float]:
    """One number of every line that has it."""
    return [line[name] for line in logged(folder) if name in line]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
