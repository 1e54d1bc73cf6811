"""Recipes with a tiny model and rows on disk, run through the command line as a user would."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from zephyr.cli import main as cli

TRAIN = {
    "precision": "float32",
    "learning_rate": 1.0e-3,
    "max_steps": 2,
    "train_batch_size": 4,
    "save_steps": 1,
}


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def jsonl(*rows: object) -> bytes:
    """The rows as lines; those that are bytes already as they are."""
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def chat(number: int, answer: str | None = "Fine, thank you.") -> dict:
    """A dialogue of two turns."""
    asked = {"role": "user", "content": f"How are you, number {number}?"}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def pair(number: int, chosen: str | None = "Yes, it is.") -> dict:
    """A preference."""
    return {"prompt": f"Is it {number}?", "chosen": chosen, "rejected": "No."}


def stage_fields(stage: str, source: dict | None, **data: object) -> dict:
    """The section of a stage that trains on one source."""
    section = {"data": {"sources": [] if source is None else [source], "max_length": 128, **data}, "train": TRAIN}
    return section | ({"objective": {"name": "dpo"}} if stage == "align" else {})


def write_recipe(folder: Path, model: Path, **sections: object) -> Path:
    """A recipe in the folder, which takes its data from there."""
    fields = {
        "name": "tiny",
        "output_dir": str(folder / "runs"),
        "data_dir": str(folder),
        "offline": True,
        "model": {"kind": "pretrained", "name_or_path": str(model)},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields | sections))
    return path


def zephyr(capfd: pytest.CaptureFixture[str], *words: object) -> Said:
    """What the command line says to these words."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    printed = capfd.readouterr()
    return Said(int(stop.value.code or 0), printed.out, printed.err)


def trained(folder: Path) -> list[Path]:
    """What only training leaves behind."""
    return [path for pattern in ("train*log*.jsonl", "checkpoint-*", "model") for path in folder.rglob(pattern)]
