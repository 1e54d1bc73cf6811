"""A run as it lies on the disk, made by hand: three stages, a log with two evaluations, a tiny model's files."""

import json
import struct
from pathlib import Path

import numpy as np

from zephyr.data.tokenize.token_store import Comparison, TokenWriter

HOSTILE = "<script>alert(1)</script> \x1b[2Jgone | cell"
RECIPE = {
    "name": "small",
    "description": "Learns <b>little</b>.",
    "seed": 7,
    "model": {"kind": "pretrained", "name_or_path": "someone/base"},
    "chat_template": {"name": "zephyr"},
    "synth": None,
    "feedback": {
        "prompts": [{"path": "someone/prompts"}],
        "recorded": [],
        "candidates": {"models": ["stage:sft"], "teachers": []},
        "judge": {"name": "endpoint", "model": "big-judge", "base_url": "http://10.0.0.9:8000/v1"},
        "filters": [{"name": "language", "keep": ["en"]}],
    },
    "align": {
        "data": {"sources": [], "filters": [], "max_length": 64},
        "objective": {"name": "dpo", "beta": 0.1, "loss_type": "sigmoid", "label_smoothing": None},
        "train": {
            "learning_rate": 5e-7,
            "train_batch_size": 4,
            "num_train_epochs": 2.0,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.1,
            "warmup_steps": None,
            "optim": "adamw_torch",
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_epsilon": 1e-8,
        },
        "lora": None,
    },
}


def evaluated(step: int, epoch: float, *, chosen: float, rejected: float) -> dict[str, float]:
    """A line of the log with an evaluation, whose rewards are 0.1 times how far the logps moved from -20 and -30."""
    return {
        "step": step,
        "epoch": epoch,
        "loss": 0.6,
        "eval_loss": 0.65,
        "eval_rewards/chosen": chosen,
        "eval_rewards/rejected": rejected,
        "eval_rewards/accuracies": 0.75,
        "eval_rewards/margins": chosen - rejected,
        "eval_logps/chosen": -20 + chosen / 0.1,
        "eval_logps/rejected": -30 + rejected / 0.1,
    }


def write_run(folder: Path, *, recipe: dict[str, object] | None = None) -> Path:
    """The folder, which holds the run."""
    stages = {"feedback": "f" * 64, "align": "a" * 64, "evaluate": "e" * 64}
    folder.mkdir(parents=True)
    recipe = recipe or RECIPE
    lock = {
        "recipe": recipe,
        "model_revision": "abc123" if recipe["model"]["name_or_path"] == "someone/base" else None,
        "hub_sources": ["someone/more", "someone/prompts"],
        "stages": {name: {"key": key, "inputs": {}} for name, key in stages.items()} | {"deliver": {"key": "d" * 64}},
        "packages": {"zephyr": "1.2.3", "torch": "2.13.0"},
        "machine": {"cores": 2},
    }
    (folder / "run.lock.json").write_text(json.dumps(lock))
    _stage(folder, "feedback", 12.5, {"prompts": 30, "pairs": 20, "dropped": {"tied": 10}})
    align = _stage(folder, "align", 100.0, {"steps": 10, "examples": 20, "health": [_note()]})
    _train(align)
    score = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    evaluate = _stage(folder, "evaluate", 2.0, {"scores": {"dDPO": score}, "metrics": {"perplexity/dDPO": 3.25}})
    (evaluate / "0-world-align.json").write_text(json.dumps({"score": score, "by_task": {"add": 0.25}}))
    (evaluate / "samples.json").write_text(json.dumps([{"prompt": "Say `hi`.", "answers": {"dDPO": HOSTILE}}]))
    return folder


def _note() -> dict[str, object]:
    return {"kind": "saturation", "step": 10, "words": "the margin saturates"}


def _stage(run: Path, name: str, seconds: float, facts: dict[str, object]) -> Path:
    folder = run / f"{name}-{name[0] * 10}"
    folder.mkdir()
    told = {"seconds": seconds, "finished": "2026-01-01T00:00:00+00:00", "facts": facts}
    (folder / "stage.json").write_text(json.dumps(told))
    return folder


def _train(stage: Path) -> None:
    (stage / "train").mkdir()
    lines = [
        {"step": 2, "epoch": 0.4, "loss": 0.69, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "grad_norm": 1.5},
        evaluated(5, 1.0, chosen=0.05, rejected=-0.1),
        evaluated(10, 2.0, chosen=0.1, rejected=-0.3),
    ]
    (stage / "train" / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with TokenWriter(stage / "tokens" / "train", "preferences") as writer:
        for length in (1, 2, 3):
            answers = (np.full(length, 7), np.full(2 * length, 8))
            writer.add(Comparison(f"row {length}", np.array([5, 6]), answers, (1.0, 0.0)))
    model = stage / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    (model / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.7}))
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [1200, 10], "data_offsets": [0, 48000]}})
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
